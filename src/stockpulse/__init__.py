"""StockPulse: a whole market-data backend in one process."""

from importlib.metadata import version

__version__ = version("stockpulse")
