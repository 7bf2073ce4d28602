"""Indicators with chosen parameters, and the calculation of several at once."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Final, TypeAlias

import numpy as np

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.definition import Indicator, label_of
from stockpulse.indicators.source import Loop, build_loop
from stockpulse.market.arrays import Floats, Ints

LoopFunction: TypeAlias = Callable[..., None]
Functions: TypeAlias = Callable[[Loop], LoopFunction]
"""Returns the function that runs a loop: see `compiler`."""
Columns: TypeAlias = Mapping[str, Floats]
"""Bars as input of a calculation: an array for each of `INPUTS`."""

Part: TypeAlias = tuple[Ints, Ints, Ints]
"""Sequences: the state's row of each, the place of its first bar, and the place after its last bar."""

_THREADED_BARS: Final = 8_000
"""A calculation over at least this many bars runs on all processors."""


class Instance:
    """An indicator with parameters."""

    def __init__(self, indicator: Indicator, values: Mapping[str, object] | None = None) -> None:
        self.indicator = indicator
        self.values = indicator.validate(values or {})

    @cached_property
    def loop(self) -> Loop:
        """The loop that calculates it."""
        return _loop(self.indicator, tuple(self.values.items()))

    @property
    def label(self) -> str:
        """The label in the language of rules: `rsi(14)`, `vwap`."""
        return label_of(self.indicator.name, self.values)


@lru_cache(maxsize=256)
def _loop(indicator: Indicator, values: tuple[tuple[str, float], ...]) -> Loop:
    return build_loop(indicator.trace(dict(values)))


class Bundle:
    """Indicators that are calculated together over the same bars."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = tuple(instances)
        self.loops = tuple(one.loop for one in self.instances)
        self.outputs = sum(loop.outputs for loop in self.loops)
        self.width = sum(loop.width for loop in self.loops)

    @property
    def definition(self) -> str:
        """A hash of everything that the values depend on."""
        parts = [f"{one.label} {one.loop.name} {one.loop.float_params.tolist()}" for one in self.instances]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def fresh(self, symbols: int) -> list[Floats]:
        """Return the initial state of this many symbols: an array for each indicator."""
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
        """Return the outputs, one row each, for all bars of the sequences [first, last). Null is NaN.

        Sequence i belongs to row `rows[i]` of the states. The states advance over it, except for its last `hold`
        (0 or 1) bars.
        """
        count = len(bars["close"])
        out = np.empty((self.outputs, count))
        columns = [bars[name] for name in INPUTS]
        loops = [(functions(loop), loop) for loop in self.loops]

        def calculate(part: Part) -> None:
            at = 0
            for (function, loop), state in zip(loops, states, strict=True):
                where = out[at : at + loop.outputs]
                function(state, *part, hold, *columns, where, loop.int_params, loop.float_params, loop.places)
                at += loop.outputs

        _run(calculate, _parts(rows, first, last, count))
        return out


def _parts(rows: Ints, first: Ints, last: Ints, count: int) -> list[Part]:
    """Return the sequences in groups, one for each thread."""
    groups = min(_PROCESSORS, len(rows)) if count >= _THREADED_BARS else 1
    cuts = [len(rows) * i // groups for i in range(groups + 1)] if groups > 1 else [0, len(rows)]
    return [(rows[a:b], first[a:b], last[a:b]) for a, b in itertools.pairwise(cuts)]


_PROCESSORS: Final = os.cpu_count() or 1
_POOL: Final = ThreadPoolExecutor(_PROCESSORS, thread_name_prefix="indicators")


def _run(work: Callable[[Part], None], parts: list[Part]) -> None:
    """Do the work for all parts: the last one in this thread, the others in the pool."""
    others = [_POOL.submit(work, part) for part in parts[:-1]]
    work(parts[-1])
    for other in others:
        other.result()
