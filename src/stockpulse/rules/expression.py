"""Conditions, and their evaluation over rows of bars and indicators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from stockpulse.indicators.definition import Indicator, Value, label_of
from stockpulse.indicators.evaluation import Instance
from stockpulse.indicators.history import HISTORY
from stockpulse.market.arrays import Floats, Mask
from stockpulse.rules.operators import CONDITION, NUMBER, ROUNDING, Number, Operator, Truth, exact, known

FIELDS: Final = ("open", "high", "low", "close", "volume")
"""The fields of a bar. No indicator and no output may have such a name."""

_SCALES: Final = {"percent": 100.0, "one": 1.0}


@dataclass(frozen=True)
class Column:
    """A column of values: a field, a term, or a history, by its label."""

    label: str
    kind: str = NUMBER
    scale: str | None = None
    """The scale of its rounding error: "price", "volume", "money", "percent" or "one"; None: it is exact."""


Instruction: TypeAlias = float | Column | Operator
"""One instruction of a program in postfix order: a number, a column, or an operator on the last results."""


@dataclass(frozen=True, eq=False)
class Term:
    """An output of an indicator with all its parameters. Terms that are written differently can be equal."""

    indicator: Indicator
    values: tuple[tuple[str, Value], ...]
    output: int

    @property
    def label(self) -> str:
        """Its canonical text, which parses to the same term."""
        return label_of(self.indicator.outputs[self.output], dict(self.values))

    @property
    def column(self) -> Column:
        """The column of its values."""
        return Column(self.label, scale=self.indicator.scales[self.output])

    @property
    def _key(self) -> tuple[object, ...]:
        return self.indicator.name, self.values, self.output

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class History:
    """A function of earlier bars: the value of `program` some bars ago, or its maximum or minimum over some bars.

    Two histories are equal if their labels are.
    """

    label: str
    function: str
    bars: int
    program: tuple[Instruction, ...] = field(repr=False, compare=False)
    kind: str = NUMBER

    @property
    def instance(self) -> Instance:
        """The indicator that calculates it, over the values of `program` in place of closes."""
        return Instance(HISTORY[self.function], {"bars": self.bars})

    @property
    def column(self) -> Column:
        """The column of its values."""
        scales = [one.scale for one in self.program if isinstance(one, Column) and one.scale]
        # A number computed from fields has the scale of prices.
        computed = any(isinstance(one, Operator) for one in self.program) and self.kind == NUMBER
        return Column(self.label, self.kind, next(iter(scales), "price" if computed else None))

    def inputs(self, values: Mapping[str, Floats], rows: int) -> Floats:
        """Return the values of `program` for these rows; 1 and 0 for true and false, NaN for unknown."""
        result = run(self.program, values, rows)
        if isinstance(result, Truth):
            found = np.where(result.yes, 1.0, np.where(result.no, 0.0, np.nan))
        else:
            found = result.value
        return np.array(np.broadcast_to(found, rows))


@dataclass(frozen=True)
class Expression:
    """A parsed condition."""

    text: str
    terms: tuple[Term, ...]
    """Its terms without repetitions, in the order of their first use."""
    fields: tuple[str, ...]
    """Its fields of the bar, in the order of their first use."""
    program: tuple[Instruction, ...] = field(repr=False)
    histories: tuple[History, ...] = ()
    """Its functions of earlier bars, each after the functions that it contains."""

    @property
    def labels(self) -> list[str]:
        """The labels of its terms, and of its histories that are numbers."""
        return [term.label for term in self.terms] + [one.label for one in self.histories if one.kind == NUMBER]

    def holds(self, values: Mapping[str, Floats], rows: int) -> Mask:
        """Return a mask of the `rows` that satisfy the condition. An unknown condition is not satisfied.

        `values` has an array of `rows` numbers for each of `fields` and for the labels of `terms` and `histories`.
        NaN is unknown, and so are infinities, overflows and divisions by zero. Scales of rounding errors are read from
        `close` and `volume`, if they are there.
        """
        result = run(self.program, values, rows)
        if not isinstance(result, Truth):
            raise TypeError(f"{self.text}: is not a condition")
        return np.full(rows, result.yes, dtype=np.bool_)


def run(program: Sequence[Instruction], values: Mapping[str, Floats], rows: int) -> Number | Truth:
    """Run a program on a stack. It needs no recursion, however long a chain of operators is."""
    stack: list[Any] = []
    with np.errstate(all="ignore"):
        for step in program:
            match step:
                case float():
                    stack.append(exact(np.float64(step)))
                case Column():
                    stack.append(_load(step, values, rows))
                case Operator():
                    operands = stack[-step.operands :]
                    stack[-step.operands :] = [step.function(*operands)]
    result: Number | Truth = stack.pop()
    return result


def _load(column: Column, values: Mapping[str, Floats], rows: int) -> Number | Truth:
    numbers = _column(column.label, values, rows)
    if column.kind == CONDITION:
        return Truth(numbers == 1.0, numbers == 0.0)
    if column.scale is None:
        return exact(numbers)
    return Number(numbers, ROUNDING * np.fmax(np.abs(numbers), _scale(column.scale, values, rows)))


def _column(label: str, values: Mapping[str, Floats], rows: int) -> Floats:
    numbers = np.asarray(values[label], dtype=np.float64)
    if numbers.shape != (rows,):  # numpy would broadcast a single number
        raise ValueError(f"{label}: has the shape {numbers.shape}, not {rows} rows")
    found: Floats = known(numbers)
    return found


def _scale(name: str, values: Mapping[str, Floats], rows: int) -> Floats | float:
    if name in _SCALES:
        return _SCALES[name]
    fields = {"price": ["close"], "volume": ["volume"], "money": ["close", "volume"]}[name]
    if not all(one in values for one in fields):
        return 0.0
    columns = [np.abs(_column(one, values, rows)) for one in fields]
    return columns[0] if len(columns) == 1 else columns[0] * columns[1]


def text_of(program: Sequence[Instruction]) -> str:
    """Return a program as text, with parentheses around every operation."""
    stack: list[str] = []
    for step in program:
        match step:
            case float():
                stack.append(repr(step).removesuffix(".0"))
            case Column():
                stack.append(step.label)
            case Operator(operands=1):
                stack.append(f"({step.symbol} {stack.pop()})")
            case Operator():
                right, left = stack.pop(), stack.pop()
                stack.append(f"({left} {step.symbol} {right})")
    return stack.pop()
