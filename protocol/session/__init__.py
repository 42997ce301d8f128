"""How a session lives: adverts, auction, queue, lifecycle, transcript, sampling."""
