"""The calculation of everything that conditions refer to: indicators, and functions of earlier bars."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.evaluation import Bundle, Columns, Functions, Instance
from stockpulse.market.arrays import Floats, Ints
from stockpulse.rules.expression import FIELDS, Column, Expression, History, Instruction, Term


class ExpressionBundle(Bundle):
    """The terms (indicators) and histories (functions of earlier bars) that a set of conditions needs.

    The outputs are those of the indicators, each indicator once, then one output for each history.
    """

    def __init__(self, expressions: Iterable[Expression]) -> None:
        expressions = list(expressions)
        terms = dict.fromkeys(term for one in expressions for term in one.terms)
        histories = dict.fromkeys(history for one in expressions for history in one.histories)
        different = dict.fromkeys((term.indicator, term.values) for term in terms)
        self._indicators = Bundle(Instance(indicator, dict(values)) for indicator, values in different)
        self._histories = tuple(histories)
        super().__init__([*self._indicators.instances, *(one.instance for one in self._histories)])
        self._columns = _columns(self._indicators, terms, self._histories)
        self._reach = self._reaches()

    @property
    def definition(self) -> str:
        """A hash of everything that the values depend on."""
        texts = [one.label for one in self._histories]
        return hashlib.sha256("\n".join([super().definition, *texts]).encode()).hexdigest()[:12]

    @property
    def bars_needed(self) -> int | None:
        """The number of bars that have influence on the newest values; None: all bars have."""
        reaches = self._reach.values()
        return None if None in reaches else max((one for one in reaches if one is not None), default=0) + 1

    def named(self, bars: Mapping[str, Floats], values: Floats) -> dict[str, Floats]:
        """Return fields of bars, and the columns of `values` (one row per bar) by label."""
        return dict(bars) | {label: values[:, column] for label, column in self._columns.items()}

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
        """Return the outputs, one row each, as `Bundle.calculate` does."""
        out = np.empty((self.outputs, count := len(bars["close"])))
        at = self._indicators.outputs
        out[:at] = self._indicators.calculate(
            functions, states[: len(self._indicators.loops)], rows, first, last, bars, hold=hold
        )
        values = self.named({name: bars[name] for name in FIELDS}, out.T)
        begin = len(self._indicators.instances)
        for history, loop, state in zip(self._histories, self.loops[begin:], states[begin:], strict=True):
            columns, target = [history.inputs(values, count)] * len(INPUTS), out[at : at + 1]
            parameters = (loop.int_params, loop.float_params, loop.places)
            functions(loop)(state, rows, first, last, hold, *columns, target, *parameters)
            at += 1
        return out

    def _reaches(self) -> dict[str, int | None]:
        """Return, by label, the number of bars before the newest that affect its value."""
        loops = [(loop, output) for loop in self._indicators.loops for output in range(loop.outputs)]
        found: dict[str, int | None] = {}
        for label, column in self._columns.items():
            if column < self._indicators.outputs:
                loop, output = loops[column]
                found[label] = None if loop.influence is None else loop.influence + loop.lookback[output]
        for history in self._histories:
            inner = [found.get(label, 0) for label in labels_of(history.program)]
            reaches = [one for one in inner if one is not None]
            found[history.label] = None if len(reaches) < len(inner) else max(reaches, default=0) + history.bars
        return found


def _columns(indicators: Bundle, terms: Iterable[Term], histories: Sequence[History]) -> dict[str, int]:
    begins, at = {}, 0
    for one in indicators.instances:
        begins[one.indicator, tuple(one.values.items())] = at
        at += one.loop.outputs
    found = {term.label: begins[term.indicator, term.values] + term.output for term in terms}
    return found | {history.label: at + place for place, history in enumerate(histories)}


def labels_of(program: Iterable[Instruction]) -> list[str]:
    """Return the labels of the columns that a program reads."""
    return [one.label for one in program if isinstance(one, Column)]
