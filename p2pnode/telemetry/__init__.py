"""What a process tells of its own work: figures, traces and logs. Nothing here decides anything, and none of it is
imported by a light client that asked for none of it."""
