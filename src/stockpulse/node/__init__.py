"""One process: its parts, its role, its start and its stop."""
