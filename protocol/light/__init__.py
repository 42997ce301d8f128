"""What a node that is no oracle can prove to itself of headers, outcomes and the ledger."""
