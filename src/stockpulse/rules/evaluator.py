"""Evaluates conditions over rows of bars and indicators.

A missing value is unknown, and so is everything computed from it. `and`, `or` and `not` follow Kleene's logic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stockpulse.indicators.definition import Indicator, Value, format_number

FIELDS: Final = ("open", "high", "low", "close", "volume")
"""The fields of a bar. No indicator and no output may have such a name."""


Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Term:
    """An output of an indicator with all its parameters. Different spellings of one term are equal."""

    indicator: Indicator
    values: tuple[tuple[str, Value], ...]
    output: int

    @property
    def label(self) -> str:
        """Its canonical spelling, which parses to the same term."""
        name = self.indicator.outputs[self.output]
        # With all digits: two factors that differ in the last digit are two terms.
        values = ", ".join(format_number(value) for _, value in self.values)
        return f"{name}({values})" if values else name

    @property
    def _key(self) -> tuple[object, ...]:
        return self.indicator.name, self.values, self.output

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class Expression:
    """A parsed condition."""

    text: str
    terms: tuple[Term, ...]
    """Its terms without repetitions, in the order of their first use."""
    fields: tuple[str, ...]
    """Its fields of the bar, in the order of their first use."""
    program: "tuple[Instruction, ...]" = field(repr=False)

    def holds(self, values: Mapping[str, Numbers], rows: int) -> Flags:
        """Return which of the `rows` satisfy the condition. An unknown condition is not satisfied.

        `values` has an array of `rows` numbers for each of `fields` and for the label of each of `terms`. NaN is
        unknown, and so are infinities, overflows and divisions by zero.
        """
        names = (*self.fields, *(term.label for term in self.terms))
        with np.errstate(all="ignore"):
            columns = {name: _column(values[name], name, rows) for name in names}
            return np.full(rows, _run(self.program, columns).yes, dtype=np.bool_)


class _Truth(NamedTuple):
    """The rows where a condition is true, and those where it is false. In all others it is unknown."""

    yes: Flags
    no: Flags


def _known(numbers: Any) -> Any:
    """Replace infinities by NaN: they come from a division by zero or an overflow."""
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _arithmetic(function: Callable[..., Any], *operands: Any) -> Any:
    return _known(function(*operands))


def _compare(function: Callable[..., Any], left: Any, right: Any) -> _Truth:
    unknown = np.isnan(left) | np.isnan(right)
    found = function(left, right)  # NaN != NaN is true for numpy
    return _Truth(found & ~unknown, ~found & ~unknown)


def _and(left: _Truth, right: _Truth) -> _Truth:
    return _Truth(left.yes & right.yes, left.no | right.no)


def _or(left: _Truth, right: _Truth) -> _Truth:
    return _Truth(left.yes | right.yes, left.no & right.no)


def _not(operand: _Truth) -> _Truth:
    return _Truth(operand.no, operand.yes)


def _column(values: Numbers, name: str, rows: int) -> Numbers:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (rows,):  # numpy would broadcast a single number
        raise ValueError(f"{name}: has the shape {numbers.shape}, not {rows} rows")
    known: Numbers = _known(numbers)
    return known


def _run(program: "tuple[Instruction, ...]", columns: Mapping[str, Numbers]) -> _Truth:
    """Run the program on a stack. It needs no recursion, however long a chain of operators is."""
    stack: list[Any] = []
    for step in program:
        match step:
            case float():
                stack.append(np.float64(step))
            case str():
                stack.append(columns[step])
            case Operator():
                operands = stack[-step.operands :]
                stack[-step.operands :] = [step.function(*operands)]
    truth: _Truth = stack.pop()
    return truth


# --- the operators -------------------------------------------------------------------------------

NUMBER: Final = "a number"
CONDITION: Final = "a condition"


@dataclass(frozen=True)
class Operator:
    """An operator: its precedence, the type of its operands, and the type of its result."""

    precedence: int
    takes: str
    gives: str
    function: Callable[..., Any]
    operands: int = 2


Instruction: TypeAlias = float | str | Operator
"""One instruction of a program in postfix order: a number, the name of a column, or an operator."""

COMPARISONS: Final = {
    symbol: Operator(4, NUMBER, CONDITION, partial(_compare, function))
    for symbol, function in {
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
        "==": np.equal,
        "!=": np.not_equal,
    }.items()
}
BINARY: Final = {
    "or": Operator(1, CONDITION, CONDITION, _or),
    "and": Operator(2, CONDITION, CONDITION, _and),
    **COMPARISONS,
    "+": Operator(5, NUMBER, NUMBER, partial(_arithmetic, np.add)),
    "-": Operator(5, NUMBER, NUMBER, partial(_arithmetic, np.subtract)),
    "*": Operator(6, NUMBER, NUMBER, partial(_arithmetic, np.multiply)),
    "/": Operator(6, NUMBER, NUMBER, partial(_arithmetic, np.divide)),
}
PREFIX: Final = {
    "not": Operator(3, CONDITION, CONDITION, _not, operands=1),
    "-": Operator(7, NUMBER, NUMBER, partial(_arithmetic, np.negative), operands=1),
}
