"""Settlement on an EVM chain: contracts, and the synchronous client that speaks to them."""
