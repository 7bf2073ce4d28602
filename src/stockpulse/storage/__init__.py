"""The stored results of the engine: written in one transaction per flush, read by the API."""
