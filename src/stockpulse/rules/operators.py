"""Numbers, truth values, and the operators of the language.

Missing values are unknown, and so is everything computed from them. `and`, `or` and `not` follow Kleene's logic.

Rounding errors must not change the result of a comparison. Each number therefore carries a bound of its rounding error,
and two numbers are equal if they differ by no more than the sum of their bounds. Numbers that are written down and
fields of bars are exact: their bound is zero. An indicator is exact to 1e-12 of its value or of the scale of its unit,
whichever is larger: the close for prices, 100 for percentages and oscillators, the volume for volumes. Addition and
subtraction add 1e-12 of the larger operand, multiplication and division 1e-12 of the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from stockpulse.market.arrays import Floats, Mask

ROUNDING: Final = 1e-12
"""The relative rounding error of a computed number. Sums of 5,000 floats stay below half of it."""


class Number(NamedTuple):
    """A number for each row, NaN if unknown, and a bound of its rounding error."""

    value: Floats
    bound: Floats


class Truth(NamedTuple):
    """The rows where a condition is true, and those where it is false. In all others it is unknown."""

    yes: Mask
    no: Mask


def known(numbers: Any) -> Any:
    """Replace infinities by NaN: they come from a division by zero or an overflow."""
    return np.where(np.isfinite(numbers), numbers, np.nan)


def exact(numbers: Any) -> Number:
    """Return numbers without rounding errors."""
    return Number(numbers, np.zeros_like(numbers))


# Operators --------------------------------------------------------------------------------------


def _sum(function: Callable[..., Any], a: Number, b: Number) -> Number:
    larger = np.maximum(np.abs(a.value), np.abs(b.value))
    return Number(known(function(a.value, b.value)), a.bound + b.bound + ROUNDING * larger)


def _product(a: Number, b: Number) -> Number:
    value = known(a.value * b.value)
    inherited = a.bound * np.abs(b.value) + b.bound * np.abs(a.value)
    return Number(value, inherited + ROUNDING * np.abs(value))


def _quotient(a: Number, b: Number) -> Number:
    value = known(a.value / b.value)
    inherited = (a.bound + b.bound * np.abs(value)) / np.abs(b.value)
    return Number(value, inherited + ROUNDING * np.abs(value))


def _negative(a: Number) -> Number:
    return Number(-a.value, a.bound)


def _compare(function: Callable[..., Any], a: Number, b: Number) -> Truth:
    equal = np.abs(a.value - b.value) <= a.bound + b.bound
    right = np.where(equal, a.value, b.value)  # what differs by rounding only is compared as equal
    unknown = np.isnan(a.value) | np.isnan(b.value)
    found = function(a.value, right)  # NaN != NaN is true for numpy
    return Truth(found & ~unknown, ~found & ~unknown)


def _and(left: Truth, right: Truth) -> Truth:
    return Truth(left.yes & right.yes, left.no | right.no)


def _or(left: Truth, right: Truth) -> Truth:
    return Truth(left.yes | right.yes, left.no & right.no)


def _not(operand: Truth) -> Truth:
    return Truth(operand.no, operand.yes)


NUMBER: Final = "a number"
CONDITION: Final = "a condition"


@dataclass(frozen=True)
class Operator:
    """An operator: its symbol and precedence, the type of its operands, and the type of its result."""

    symbol: str
    precedence: int
    takes: str
    gives: str
    function: Callable[..., Any]
    operands: int = 2


COMPARISONS: Final = {
    symbol: Operator(symbol, 4, NUMBER, CONDITION, partial(_compare, function))
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
    "or": Operator("or", 1, CONDITION, CONDITION, _or),
    "and": Operator("and", 2, CONDITION, CONDITION, _and),
    **COMPARISONS,
    "+": Operator("+", 5, NUMBER, NUMBER, partial(_sum, np.add)),
    "-": Operator("-", 5, NUMBER, NUMBER, partial(_sum, np.subtract)),
    "*": Operator("*", 6, NUMBER, NUMBER, _product),
    "/": Operator("/", 6, NUMBER, NUMBER, _quotient),
}
PREFIX: Final = {
    "not": Operator("not", 3, CONDITION, CONDITION, _not, operands=1),
    "-": Operator("-", 7, NUMBER, NUMBER, _negative, operands=1),
}
