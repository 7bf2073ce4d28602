"""The parts of a request that are answered, found from the frames of the answer as they come."""

from dataclasses import dataclass

import polars as pl

from stockpulse.market.times import micros
from stockpulse.pipeline.backfill.requests import Request
from stockpulse.providers.faults import BadReply


@dataclass(frozen=True)
class Answered:
    """A range of one symbol whose bars have all come, in UTC microseconds."""

    symbol: str
    start: int
    end: int
    found: bool
    """True if there was a bar in it."""


class Answer:
    """The progress of the answer to a request: all bars of one symbol, ascending, then those of the next."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._place = {symbol: place for place, symbol in enumerate(request.symbols)}
        self._current = 0
        self._reached = request.start
        self._found = False

    def after(self, frame: pl.DataFrame) -> list[Answered]:
        """Return the ranges that a frame completes. Raises BadReply if it breaks the order of the answer."""
        done: list[Answered] = []
        for symbol in frame["symbol"].rle().struct.field("value"):
            place = self._place.get(symbol, -1)
            if place < self._current:
                raise BadReply(f"bars of {symbol} came, which were not asked for, or had come before")
            done += self._up_to(place)
            self._found = True
        if len(frame) and frame["ts"][-1] is not None:  # a row with a problem may have no time
            # There may be more bars of the last symbol from its last row on.
            last = micros(frame["ts"][-1])
            if last > self._reached:
                done.append(self._part(last))
                self._reached = last
        return done

    def end(self) -> list[Answered]:
        """Return the ranges that are complete because the answer has ended."""
        return self._up_to(len(self._request.symbols))

    def _up_to(self, place: int) -> list[Answered]:
        """Complete the symbols before this place."""
        done = []
        while self._current < place:
            done.append(self._part(self._request.end))
            self._current, self._reached, self._found = self._current + 1, self._request.start, False
        return done

    def _part(self, end: int) -> Answered:
        return Answered(self._request.symbols[self._current], self._reached, end, self._found)
