"""Log lines, counters and metrics."""
