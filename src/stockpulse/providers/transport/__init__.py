"""Connections to providers: requests, streams, rate limits, daily quotas; no key leaves them in a message."""
