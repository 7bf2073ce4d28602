"""StockPulse: a whole market-data backend in one process."""

import os
from importlib.metadata import version

# Read by Polars when it is first imported. Most of our frames are small, and handing each operation on one to a
# pool of threads takes longer than the operation: a POST is answered in half the time without. Large batches are
# worked on in threads of our own (`offload`), several at once.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

__version__ = version("stockpulse")
