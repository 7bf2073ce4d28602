"""Backfill: the load of providers' bars of the past, of which only the missing ones are asked for."""
