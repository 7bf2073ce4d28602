"""Requests for missing bars: few, within the limits of the provider."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from stockpulse.market.intervals import Interval
from stockpulse.pipeline.backfill.expected import Span
from stockpulse.providers.base import History


@dataclass(frozen=True)
class Request:
    """A call of `Provider.history`; times in UTC microseconds."""

    symbols: tuple[str, ...]
    interval: Interval
    start: int
    end: int


def requests_for(wanted: Mapping[str, Iterable[Span]], interval: Interval, history: History) -> list[Request]:
    """Return the requests for the wanted ranges of each symbol, the oldest first.

    Symbols with the same range share a request. Long ranges are cut from their end backwards: a range of which the
    beginning is loaded already is then cut at the same places as those of other symbols.
    """
    window = int(history.window.total_seconds()) * 1_000_000
    symbols: dict[Span, list[str]] = defaultdict(list)
    for symbol, spans in wanted.items():
        for span in spans:
            for part in _cut(span, window):
                symbols[part].append(symbol)
    return [
        Request(some, interval, start, end)
        for (start, end), names in sorted(symbols.items())
        for some in _batches(sorted(names), max(history.symbols, 1))
    ]


def _batches(symbols: list[str], most: int) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(symbols), most):
        yield tuple(symbols[first : first + most])


def _cut(span: Span, window: int) -> Iterator[Span]:
    start, end = span
    while end - start > window:
        yield end - window, end
        end -= window
    yield start, end
