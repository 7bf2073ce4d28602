"""Indicators: an algebra, the definitions in it, and the loop that runs them over time and over symbols."""
