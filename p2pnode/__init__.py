"""The running node: transport, engine, storage, and the commands people type."""
