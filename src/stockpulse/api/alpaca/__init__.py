"""Alpaca's market-data protocol: its client libraries work with StockPulse as their base URL.

Sources: Alpaca's OpenAPI document of its market data API (2026-06-29), and its Python, Go and JavaScript libraries.
"""
