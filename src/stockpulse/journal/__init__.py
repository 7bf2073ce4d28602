"""The durable log: records are appended here first, and everything else is derived from them."""
