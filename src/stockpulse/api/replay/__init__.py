"""A stored day as a live stream: each client has its own clock."""
