"""Twelve Data: bars and quotes over REST, and a stream of prices without sizes."""
