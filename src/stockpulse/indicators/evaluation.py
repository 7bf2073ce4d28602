"""Indicators with their parameters chosen, and the calculation of several at once."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.definition import Indicator, written
from stockpulse.indicators.source import Loop, loop_of
from stockpulse.market.arrays import Floats, Ints

LoopFunction: TypeAlias = Callable[..., None]
Functions: TypeAlias = Callable[[Loop], LoopFunction]
"""Gives the function that runs a loop: see `compiler`."""
Columns: TypeAlias = Mapping[str, Floats]
"""The bars that are calculated on: an array for each of `INPUTS`."""

Part: TypeAlias = tuple[Ints, Ints, Ints]
"""Sequences: the row of the state of each, where its bars begin, and where they end."""

_THREADED_BARS: Final = 8_000
"""From so many bars on a calculation is spread over the processors."""


class Instance:
    """An indicator with its parameters."""

    def __init__(self, indicator: Indicator, values: Mapping[str, object] | None = None) -> None:
        self.indicator = indicator
        self.values = indicator.checked(values or {})

    @cached_property
    def loop(self) -> Loop:
        """What calculates it."""
        return loop_of(self.indicator.traced(self.values))

    @property
    def label(self) -> str:
        """As people write it: `rsi(14)`, `vwap`."""
        values = ", ".join(written(value) for value in self.values.values())
        return f"{self.indicator.name}({values})" if values else self.indicator.name


class Bundle:
    """Indicators that are calculated together, over the same bars."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = tuple(instances)
        self.loops = tuple(one.loop for one in self.instances)
        self.outputs = sum(loop.outputs for loop in self.loops)
        self.width = sum(loop.width for loop in self.loops)

    @property
    def definition(self) -> str:
        """Changes whenever something about what is calculated does."""
        parts = [f"{one.label} {one.loop.name} {one.loop.real.tolist()}" for one in self.instances]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def fresh(self, symbols: int) -> list[Floats]:
        """The state of so many symbols of which no bar is known; an array for each indicator."""
        return [np.zeros((symbols, loop.width)) for loop in self.loops]

    def calculate(
        self,
        functions: Functions,
        states: Sequence[Floats],
        rows: Ints,
        first: Ints,
        last: Ints,
        bars: Columns,
        *,
        hold: int = 0,
    ) -> Floats:
        """The outputs, one row each, for all bars of the sequences [first, last).

        Sequence i belongs to the symbol in `rows[i]` of the states, which move on with it, but for the last
        `hold` (0 or 1) bars of each sequence. Null is NaN.
        """
        count = len(bars["close"])
        out = np.empty((self.outputs, count))
        columns = [bars[name] for name in INPUTS]
        loops = [(functions(loop), loop) for loop in self.loops]

        def calculate(part: Part) -> None:
            at = 0
            for (function, loop), state in zip(loops, states, strict=True):
                where = out[at : at + loop.outputs]
                function(state, *part, hold, *columns, where, loop.whole, loop.real, loop.places)
                at += loop.outputs

        _run(calculate, _parts(rows, first, last, count))
        return out


def _parts(rows: Ints, first: Ints, last: Ints, count: int) -> list[Part]:
    """The sequences in as many groups as are to be calculated at the same time."""
    groups = min(_PROCESSORS, len(rows)) if count >= _THREADED_BARS else 1
    cuts = [len(rows) * i // groups for i in range(groups + 1)] if groups > 1 else [0, len(rows)]
    return [(rows[a:b], first[a:b], last[a:b]) for a, b in itertools.pairwise(cuts)]


_PROCESSORS: Final = os.cpu_count() or 1
_POOL: Final = ThreadPoolExecutor(_PROCESSORS, thread_name_prefix="indicators")


def _run(work: Callable[[Part], None], parts: list[Part]) -> None:
    """Work on all parts; the last one here, the others in threads."""
    others = [_POOL.submit(work, part) for part in parts[:-1]]
    work(parts[-1])
    for other in others:
        other.result()
