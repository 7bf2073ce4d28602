"""Prepares what providers and callers send for the log: validation, redeliveries, ids."""
