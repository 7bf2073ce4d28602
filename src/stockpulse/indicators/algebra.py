"""The algebra of indicator definitions: series of bars, arithmetic on them, and the primitives.

Calling a definition with symbolic series records its operations as a graph, and `source` turns the graph into one
loop. The graph keeps constants apart from its shape: another period of the same indicator has the same loop.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

CALENDAR_INPUTS: Final = ("session", "regular", "bars_per_year")
"""Inputs that the symbol's calendar adds to a bar: see `calendar_inputs`."""

INPUTS: Final = ("open", "high", "low", "close", "volume", *CALENDAR_INPUTS)
"""The inputs of a bar."""

Number: TypeAlias = "Series | float"


@dataclass(frozen=True, eq=False)
class Step:
    """A primitive: the name of its function in `steps`, and the arguments of that beside the values.

    `state` has a letter for each scalar of the state, `constants` for each constant: i (integer) or f (float).
    A step that `folds` has a `fold_` beside it. Three functions of the constants describe it: `slots` is the memory
    that it needs, `lookback` the number of bars before its first answer, and `influence` the number of bars after
    which a value has no weight any more (None: it always has).
    """

    name: str
    state: str = ""
    constants: str = ""
    outputs: int = 1
    folds: bool = False
    slots: Callable[..., int] | None = None
    lookback: Callable[..., int] = lambda *_: 0
    influence: Callable[..., int | None] = lambda *_: 0
    known_from: Callable[[Iterable[int]], int] = max
    """The first bar with an answer, from the first known bars of the inputs."""


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a step, or of plain arithmetic if there is a `template`."""

    step: Step
    inputs: tuple["Series", ...]
    constants: tuple[float, ...] = ()
    template: str | None = None


@dataclass(frozen=True, eq=False)
class Series:
    """A value for each bar: an output of a node, an input (`name`), or a constant (`value`)."""

    node: Node | None = None
    output: int = 0
    name: str | None = None
    value: float | None = None

    def __add__(self, other: Number) -> "Series":
        return _arithmetic("{} + {}", self, other)

    def __radd__(self, other: Number) -> "Series":
        return _arithmetic("{} + {}", other, self)

    def __sub__(self, other: Number) -> "Series":
        return _arithmetic("{} - {}", self, other)

    def __rsub__(self, other: Number) -> "Series":
        return _arithmetic("{} - {}", other, self)

    def __mul__(self, other: Number) -> "Series":
        return _arithmetic("{} * {}", self, other)

    def __rmul__(self, other: Number) -> "Series":
        return _arithmetic("{} * {}", other, self)

    def __truediv__(self, other: Number) -> "Series":
        if isinstance(other, Series):
            return apply(_DIVIDE, self, other)
        return _arithmetic("{} / {}", self, other)

    def __rtruediv__(self, other: Number) -> "Series":
        return apply(_DIVIDE, other, self)

    def __neg__(self) -> "Series":
        return _arithmetic("-{}", self)

    def __abs__(self) -> "Series":
        return _arithmetic("abs({})", self)

    def __gt__(self, other: Number) -> "Series":
        return apply(_GREATER, self, other)

    def __lt__(self, other: Number) -> "Series":
        return apply(_GREATER, other, self)

    def __ge__(self, other: Number) -> "Series":
        return apply(_AT_LEAST, self, other)

    def __le__(self, other: Number) -> "Series":
        return apply(_AT_LEAST, other, self)

    def __and__(self, other: Number) -> "Series":
        return apply(Step("both"), self, other)

    def __or__(self, other: Number) -> "Series":
        return apply(Step("either"), self, other)

    def __bool__(self) -> bool:
        raise TypeError("a series is not a truth value: use where(condition, a, b), & and |")


_DIVIDE: Final = Step("divide")
_GREATER: Final = Step("greater")
_AT_LEAST: Final = Step("at_least")


def series(value: Number) -> Series:
    """Return a number or a series as a series."""
    return value if isinstance(value, Series) else Series(value=float(value))


def _arithmetic(template: str, *inputs: Number) -> Series:
    return Series(Node(Step("arithmetic"), tuple(series(one) for one in inputs), template=template))


def apply(step: Step, *inputs: Number, constants: tuple[float, ...] = ()) -> Series:
    """Return the first output of a step."""
    return Series(Node(step, tuple(series(one) for one in inputs), constants))


def apply_all(step: Step, *inputs: Number, constants: tuple[float, ...] = ()) -> Iterator[Series]:
    """Return all outputs of a step."""
    node = Node(step, tuple(series(one) for one in inputs), constants)
    return (Series(node, output) for output in range(step.outputs))


# One value at a time ------------------------------------------------------------------------


def where(condition: Series, a: Number, b: Number) -> Series:
    """Return a where the condition holds, b where it does not, null where it is unknown."""
    if condition.node is not None and condition.node.step is _GREATER:
        return apply(Step("where_greater"), *condition.node.inputs, a, b)  # one step, which is quicker than two
    return apply(Step("where"), condition, a, b)


def ratio(a: Number, b: Number, limit: float) -> Series:
    """Return a / b; `limit` where b is zero (the operator / gives null there)."""
    return apply(Step("ratio"), a, b, limit)


def difference(a: Number, b: Number) -> Series:
    """Return a - b; zero where they differ by rounding only. For values that were computed."""
    return apply(Step("difference"), a, b)


def equal(a: Number, b: Number) -> Series:
    """Condition: a == b."""
    return apply(Step("equal"), a, b)


def given(x: Series, other: Series) -> Series:
    """Return x; null where `other` is null."""
    return apply(Step("given"), x, other)


def known_or(x: Series, other: Series) -> Series:
    """Return x; `other` where x is null."""
    return apply(Step("known_or", known_from=min), x, other)


def larger(a: Number, b: Number) -> Series:
    """Return the larger value."""
    return apply(Step("larger"), a, b)


def smaller(a: Number, b: Number) -> Series:
    """Return the smaller value."""
    return apply(Step("smaller"), a, b)


def sqrt(x: Series) -> Series:
    """Return the square root."""
    return _arithmetic("sqrt({})", x)


def log(x: Series) -> Series:
    """Return the natural logarithm."""
    return _arithmetic("log({})", x)


def previous(x: Series) -> Series:
    """Return the value before."""
    return apply(Step("previous", state="if", lookback=lambda: 1, influence=lambda: 1), x)


def diff(x: Series) -> Series:
    """Return the change from the value before."""
    return x - previous(x)


def lag(x: Series, n: int) -> Series:
    """Return the value n before."""
    step = Step("lag", state="ii", constants="i", slots=lambda n: n + 1, lookback=_all, influence=_all)
    return apply(step, x, constants=(n,))


def shift(x: Series, n: int) -> Series:
    """Return the value of n bars before, a null too; `lag` counts known values only."""
    step = Step("shift", state="ii", constants="i", slots=lambda n: n + 1, lookback=_all, influence=_all)
    return apply(step, x, constants=(n,))


def known_run(x: Series, n: int) -> Series:
    """Return 1 if the last n bars have a value, else null."""
    return apply(Step("known_run", state="i", constants="i", lookback=_all_but_one, influence=_all), x, constants=(n,))


def skip(x: Series, n: int) -> Series:
    """Return null for the first n values, then x: a later start for a seed."""
    return apply(Step("skip", state="i", constants="i", lookback=_all, influence=_all), x, constants=(n,))


# Over all values so far ----------------------------------------------------------------------------


def cumsum(x: Series) -> Series:
    """Return the sum of all values so far."""
    return apply(Step("cumsum", state="f", influence=_never), x)


def session_mean(x: Series, weight: Series, session: Series, counts: Series) -> Series:
    """Return the weighted mean of the values of the session so far that count."""
    return apply(Step("session_mean", state="ffff", influence=_never), x, weight, session, counts)


def smooth(x: Series, n: int, alpha: float) -> Series:
    """Return the exponential average by alpha, seeded with the mean of the first n values."""
    step = Step("ema", state="if", constants="if", lookback=_all_but_one, influence=lambda n, a: n + _weightless(a))
    return apply(step, x, constants=(n, alpha))


def ema(x: Series, n: int) -> Series:
    """Return the exponential moving average with a span of n: alpha is 2 / (n + 1)."""
    return smooth(x, n, 2 / (n + 1))


def wilder(x: Series, n: int) -> Series:
    """Return Wilder's average: alpha is 1 / n."""
    return smooth(x, n, 1 / n)


def ema_of_all(x: Series, n: int) -> Series:
    """Return the exponential moving average that is seeded with the first value."""
    step = Step("ema_of_all", state="if", constants="f", influence=_weightless)
    return apply(step, x, constants=(2 / (n + 1),))


def wilder_sum(x: Series, n: int) -> Series:
    """Return Wilder's running sum, n times his average."""
    influence = lambda n: n + _weightless(1 / n)  # noqa: E731
    step = Step("wilder_sum", state="if", constants="i", lookback=_all_but_one, influence=influence)
    return apply(step, x, constants=(n,))


# Over the last n -------------------------------------------------------------------------------


def sum_(x: Series, n: int) -> Series:
    """Return the sum of the last n values."""
    return _window("window_sum", "iif", 1, n, x)[0]


def sums(x: Series, y: Series, n: int) -> tuple[Series, ...]:
    """Return the sums of the last n values of two series that are known together: quicker than two times `sum_`."""
    return _window("window_sums", "iiff", 2, n, x, y)


def is_flat(x: Series, n: int) -> Series:
    """Condition: the last n values are equal."""
    return apply(Step("is_flat", state="if", constants="i", influence=_all_but_one), x, constants=(n,))


def sma(x: Series, n: int) -> Series:
    """Return the mean of the last n values; of equal values exactly that value."""
    return where(is_flat(x, n), x, sum_(x, n) / n)


def weighted_mean(x: Series, weight: Series, n: int) -> Series:
    """Return the mean of the last n values weighted by another series; null where all weights are zero."""
    total, weights = sums(x * weight, weight, n)
    mean = total / weights
    return where(is_flat(x, n), given(x, mean), mean)


def max_(x: Series, n: int) -> Series:
    """Return the maximum of the last n values."""
    return _window("window_max", "iif", 1, n, x)[0]


def min_(x: Series, n: int) -> Series:
    """Return the minimum of the last n values."""
    return -max_(-x, n)


def range_(high: Series, low: Series, n: int) -> tuple[Series, ...]:
    """Return the maximum of the last n highs and the minimum of the last n lows: quicker than `max_` and `min_`."""
    return _window("window_range", "iiff", 2, n, high, low)


def since_max(x: Series, n: int) -> Series:
    """Return the age of the maximum of the last n values, in values; of equal values, the newest counts."""
    return _window("since_max", "iiifi", 2, n, x)[0]


def since_min(x: Series, n: int) -> Series:
    """Return the age of the minimum of the last n values, in values; of equal values, the newest counts."""
    return since_max(-x, n)


def weighted_sum(x: Series, n: int) -> tuple[Series, ...]:
    """Return the sum of the last n values with weights from 1 (the oldest) to n, and their plain sum."""
    return _window("weighted_sum", "iiff", 2, n, x, outputs=2)


def wma(x: Series, n: int) -> Series:
    """Return the linearly weighted mean of the last n values; of equal values exactly that value."""
    return where(is_flat(x, n), x, weighted_sum(x, n)[0] / (n * (n + 1) / 2))


def std(x: Series, n: int) -> Series:
    """Return the population standard deviation of the last n values."""
    return sqrt(_window("variance", "iiff", 2, n, x)[0])


def mean_deviation(x: Series, mean: Series, n: int) -> Series:
    """Return the mean distance of the last n values from `mean`, their mean."""
    step = Step(
        "mean_deviation",
        state="ii",
        constants="i",
        slots=_all,
        influence=_all_but_one,  # `mean` starts as late
    )
    return apply(step, x, mean, constants=(n,))


def _window(name: str, state: str, width: int, n: int, *x: Series, outputs: int = 0) -> tuple[Series, ...]:
    step = Step(
        name,
        state=state,
        constants="i",
        outputs=outputs or len(x),
        folds=True,
        slots=lambda n: width * n,
        lookback=_all_but_one,
        influence=_all_but_one,
    )
    return tuple(apply_all(step, *x, constants=(n,)))


# Functions with special rules ----------------------------------------------------------------


def adaptive_ema(x: Series, alpha: Series, seed: Series) -> Series:
    """Return the exponential average by an alpha that changes, seeded with the first `seed`."""
    return apply(Step("adaptive_ema", state="if", influence=_never), x, alpha, seed)


def adx_average(x: Series, moves: Series, n: int) -> Series:
    """Return Wilder's average; it does not change while `moves` is zero."""
    step = Step(
        "adx_average", state="if", constants="i", lookback=_all_but_one, influence=lambda n: n + _weightless(1 / n)
    )
    return apply(step, x, moves, constants=(n,))


def parabolic_sar(high: Series, low: Series, acceleration: float, maximum: float) -> Series:
    """Return Wilder's parabolic stop and reverse."""
    step = Step("parabolic_sar", state="iifffff", constants="ff", lookback=lambda *_: 1, influence=_never)
    return apply(step, high, low, constants=(acceleration, maximum))


def supertrend(close: Series, upper: Series, lower: Series) -> tuple[Series, Series]:
    """Return the band that trails the close, and the close's side of it: 1 above, -1 below."""
    band, side = apply_all(Step("supertrend", state="iifff", outputs=2, influence=_never), close, upper, lower)
    return band, side


# ------------------------------------------------------------------------------------------------


def _all(n: int) -> int:
    return n


def _all_but_one(n: int, *_: float) -> int:
    return n - 1


def _never(*_: float) -> None:
    return None


def _weightless(alpha: float) -> int:
    """Return the number of values after which the weight of all earlier values is below the last bit of a float."""
    return 0 if alpha >= 1 else int(-37 / math.log(1 - alpha)) + 1
