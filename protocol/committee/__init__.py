"""Simplex: how 2f+1 of n = 3f+1 oracles agree on one chain of blocks (DESIGN §7)."""
