"""What the process says of itself: log lines, counters, metrics."""
