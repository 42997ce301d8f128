"""Settlement: what the chain has said, in the words of an oracle; and what the committee puts on the chain, and who."""
