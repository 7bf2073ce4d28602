"""Signals: the results of rules for each bar as it closes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.market.arrays import Floats, Ints
from stockpulse.rules import Expression, ExpressionBundle

SIGNAL_NAMES: Final = ("HOLD", "BUY", "SELL")
"""A signal is stored as its index here."""

RULE_NAME: Final = r"[a-z0-9][a-z0-9_\-]{0,39}"
"""The pattern of a rule's name."""


@dataclass(frozen=True)
class Rule:
    """The conditions to buy and to sell. If neither is known to hold, or both do, the signal is HOLD."""

    name: str
    buy: Expression
    sell: Expression


@dataclass(frozen=True)
class Signals:
    """Signals, one row per bar and rule."""

    symbol_id: Ints
    ts: Ints
    revision: Ints
    rule: Ints
    """The index of the rule."""
    signal: npt.NDArray[np.int8]
    """An index into `SIGNAL_NAMES`."""
    price: Floats
    """The close of the bar."""

    def __len__(self) -> int:
        return len(self.ts)


class Rules:
    """The rules in force, and their terms."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.bundle = ExpressionBundle(expression for rule in rules for expression in (rule.buy, rule.sell))

    @property
    def definition(self) -> str:
        """A hash of the rules and of the indicators that they use."""
        texts = "".join(f"{rule.name}\n{rule.buy.text}\n{rule.sell.text}\n" for rule in self.rules)
        return hashlib.sha256((texts + self.bundle.definition).encode()).hexdigest()[:12]

    def signals(self, bars: DerivedRows) -> Signals:
        """Return the signal of each rule for each of these bars."""
        values, count = self.bundle.named(bars.bars, bars.values), len(bars)
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
