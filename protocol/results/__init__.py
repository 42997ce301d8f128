"""What a lane came to: commitments, what an oracle makes of them, the verdict, and the tree of all verdicts."""
