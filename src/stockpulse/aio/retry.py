"""Retry an operation until it succeeds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def retry(
    attempt: Callable[[], Awaitable[T]],
    what: str,
    is_transient: Callable[[Exception], bool],
    on_fault: Callable[[Exception], None] | None = None,
) -> T:
    """Call `attempt` until it succeeds, with growing delays, as long as its faults are transient; raise any other.

    `what` names the operation in the log. `on_fault` gets each transient fault, before the delay.
    """
    delay = _FIRST_DELAY
    while True:
        try:
            return await attempt()
        except Exception as fault:
            if not is_transient(fault):
                raise
            log.warning("failed, trying again", what=what, error=repr(fault), in_seconds=delay)
            if on_fault is not None:
                on_fault(fault)
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY)
