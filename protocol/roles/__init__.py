"""The machines: router, miner, client, and the peer exchange every full node runs."""
