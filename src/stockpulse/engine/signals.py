"""Signals: the verdicts of rules on each bar as it closes."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.market.arrays import Floats, Ints
from stockpulse.rules import Expression

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


class Terms:
    """The indicators of some expressions, calculated together, and their values by the terms' labels."""

    def __init__(self, expressions: Iterable[Expression]) -> None:
        self._terms = list(dict.fromkeys(term for expression in expressions for term in expression.terms))

    @cached_property
    def bundle(self) -> Bundle:
        """The indicators to calculate: each once, whichever of its outputs are used."""
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
        """Return fields of bars and the values that `bundle` calculated for them, by name."""
        return dict(bars) | {label: values[:, column] for label, column in self._columns.items()}


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
        self.terms = Terms(expression for rule in rules for expression in (rule.buy, rule.sell))

    @property
    def definition(self) -> str:
        """A hash of the rules and of the indicators that they use."""
        texts = "".join(f"{rule.name}\n{rule.buy.text}\n{rule.sell.text}\n" for rule in self.rules)
        return hashlib.sha256((texts + self.terms.bundle.definition).encode()).hexdigest()[:12]

    def signals(self, bars: DerivedRows) -> Signals:
        """Return the signal of each rule for each of these bars."""
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
