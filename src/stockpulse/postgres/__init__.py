"""The floor that everything stands on: the server, its tables, and the formats it speaks."""
