"""Where tokens are made. The rest of the program sees only :mod:`p2pnode.engine.api`."""
