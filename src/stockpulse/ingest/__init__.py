"""From what providers and callers send to what may enter the log."""
