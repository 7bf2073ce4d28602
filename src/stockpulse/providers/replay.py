"""A recorded file of trades, sent again: at its own pace, faster, or as fast as it can be read.

The file is read in chunks, so it may be larger than the memory. A value that cannot be converted becomes
null and its row goes on, for validation to reject it with a reason; no row is dropped here.
"""

import asyncio
import io
import math
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.frames import TICKS
from stockpulse.providers.base import Clock
