"""One process: its parts, its role, how it starts and how it stops."""
