"""Limits on the connections of the HTTP server: their number, the size of headers, the time that a client may take."""
