"""What the blocks decide: accounts, sessions, lanes, the node pool, the model registry."""
