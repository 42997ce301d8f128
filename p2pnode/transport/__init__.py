"""How nodes reach each other. The rest of the program sees only :mod:`p2pnode.transport.seam`."""
