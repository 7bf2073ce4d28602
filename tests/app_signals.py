"""The effects of the app on its own process."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopping_by_signal() -> Iterator[list[int]]:
    """Note the SIGTERM of an app that has to stop; it would end pytest."""
    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, before)
