"""The hub: what the engine makes, to live subscribers, in memory. See `hub.Hub`."""
