"""A session from its opening to its end: lifecycle, auction, transcript, sampling."""
