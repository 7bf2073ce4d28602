"""Signals: what rules say about each bar as it closes."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.derived_rows import Derived
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.market.arrays import Floats, Ints
from stockpulse.rules import Expression

SIGNALS: Final = ("HOLD", "BUY", "SELL")
"""A signal is stored as its place in this list."""

RULE_NAME: Final = r"[a-z0-9][a-z0-9_\-]{0,39}"
"""What a rule may be called."""


@dataclass(frozen=True)
class Rule:
    """When to buy and when to sell. Where neither is known to hold, or both do, the signal is HOLD."""

    name: str
    buy: Expression
    sell: Expression


class Terms:
    """The indicators of some expressions, calculated together, and their values by what the expressions call them."""

    def __init__(self, expressions: Iterable[Expression]) -> None:
        self._terms = list(dict.fromkeys(term for expression in expressions for term in expression.terms))

    @cached_property
    def bundle(self) -> Bundle:
        """What calculates them: each indicator once, whichever of its outputs are wanted."""
        different = dict.fromkeys((term.indicator, term.values) for term in self._terms)
        return Bundle(Instance(indicator, dict(values)) for indicator, values in different)

    @cached_property
    def _columns(self) -> dict[str, int]:
        begins, at = {}, 0
        for one in self.bundle.instances:
            begins[one.indicator, tuple(one.values.items())] = at
            at += one.loop.outputs
        return {term.label: begins[term.indicator, term.values] + term.output for term in self._terms}

    def named(self, bars: Mapping[str, Floats], values: Floats) -> dict[str, Floats]:
        """Fields of bars, and columns of what `bundle` calculated for them, by name."""
        return dict(bars) | {label: values[:, column] for label, column in self._columns.items()}


@dataclass(frozen=True)
class Signals:
    """A row for each bar and rule."""

    symbol_id: Ints
    ts: Ints
    revision: Ints
    rule: Ints
    """Its place among the rules."""
    signal: npt.NDArray[np.int8]
    """A place in `SIGNALS`."""
    price: Floats
    """The close of the bar."""

    def __len__(self) -> int:
        return len(self.ts)


class Rules:
    """The rules that are in force, and what they are made of."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.terms = Terms(expression for rule in rules for expression in (rule.buy, rule.sell))

    @property
    def definition(self) -> str:
        """Changes whenever a rule does, or what it speaks of."""
        texts = "".join(f"{rule.name}\n{rule.buy.text}\n{rule.sell.text}\n" for rule in self.rules)
        return hashlib.sha256((texts + self.terms.bundle.definition).encode()).hexdigest()[:12]

    def signals(self, bars: Derived) -> Signals:
        """What each rule says about these bars."""
        values, count = self.terms.named(bars.bars, bars.values), len(bars)
        found = [_signal(rule.buy.holds(values, count), rule.sell.holds(values, count)) for rule in self.rules]
        times = len(self.rules)
        return Signals(
            np.tile(bars.symbol_id, times),
            np.tile(bars.ts, times),
            np.tile(bars.revision, times),
            np.repeat(np.arange(times), count),
            np.concatenate([*found, np.empty(0, np.int8)]),
            np.tile(bars.bars["close"], times),
        )


def _signal(buy: npt.NDArray[np.bool_], sell: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    return np.where(buy & ~sell, np.int8(1), np.where(sell & ~buy, np.int8(2), np.int8(0)))
