"""The commands people type. Each module is one command: ``configure(subparsers)`` and ``run(args) -> int``."""
