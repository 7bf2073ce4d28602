"""The words that indicators are defined in: series of bars, arithmetic on them, and the primitives.

Calling a definition with symbolic series records what it does as a graph, which `source` turns into one loop.
The graph holds the constants apart from its shape: another period of the same indicator is the same loop.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

INPUTS: Final = ("open", "high", "low", "close", "volume", "session")
"""What a bar gives: prices, shares, and the trading date that it belongs to (a number that only has to differ)."""

Number: TypeAlias = "Series | float"


@dataclass(frozen=True, eq=False)
class Step:
    """A primitive: its function in `steps`, and what that takes besides values.

    `state` has a letter for each of its scalars, `constants` one for each constant: i (integer) or f (float).
    One that `settles` has a `settle_` beside it. `slots` says how much memory it needs, `lookback` how many more
    bars until its first answer, `settling` after how many an older one has no weight left (None: never); all take
    the constants.
    """

    name: str
    state: str = ""
    constants: str = ""
    outputs: int = 1
    settles: bool = False
    slots: Callable[..., int] | None = None
    lookback: Callable[..., int] = lambda *_: 0
    settling: Callable[..., int | None] = lambda *_: 0
    known_from: Callable[[Iterable[int]], int] = max
    """From when inputs that are known from these bars on are enough for an answer."""


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a step (or, with `template`, of plain arithmetic)."""

    step: Step
    inputs: tuple["Series", ...]
    constants: tuple[float, ...] = ()
    template: str | None = None


@dataclass(frozen=True, eq=False)
class Series:
    """A value for each bar: an output of a node, an input (`name`), or the same everywhere (`value`)."""

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
        raise TypeError("a series has no truth of its own: use where(condition, a, b), & and |")


_DIVIDE: Final = Step("divide")
_GREATER: Final = Step("greater")
_AT_LEAST: Final = Step("at_least")


def series(value: Number) -> Series:
    """The value as a series."""
    return value if isinstance(value, Series) else Series(value=float(value))


def _arithmetic(template: str, *inputs: Number) -> Series:
    return Series(Node(Step("arithmetic"), tuple(series(one) for one in inputs), template=template))


def apply(step: Step, *inputs: Number, constants: tuple[float, ...] = ()) -> Series:
    """The first output of a step."""
    return Series(Node(step, tuple(series(one) for one in inputs), constants))


def apply_all(step: Step, *inputs: Number, constants: tuple[float, ...] = ()) -> Iterator[Series]:
    """All outputs of a step."""
    node = Node(step, tuple(series(one) for one in inputs), constants)
    return (Series(node, output) for output in range(step.outputs))


# One value and the last ------------------------------------------------------------------------


def where(condition: Series, a: Number, b: Number) -> Series:
    """A where the condition holds, b where not, null where it is unknown."""
    return apply(Step("where"), condition, a, b)


def ratio(a: Number, b: Number, limit: float) -> Series:
    """A / b, and `limit` where b is zero. The operator / gives null there."""
    return apply(Step("ratio"), a, b, limit)


def gap(a: Number, b: Number) -> Series:
    """A - b, and zero where they differ by no more than rounding: for values that were computed."""
    return apply(Step("gap"), a, b)


def equal(a: Number, b: Number) -> Series:
    """Whether both are the same."""
    return apply(Step("equal"), a, b)


def given(x: Series, other: Series) -> Series:
    """X, but null where the other one is."""
    return apply(Step("given"), x, other)


def known_or(x: Series, other: Series) -> Series:
    """X, and the other one where x is null."""
    return apply(Step("known_or", known_from=min), x, other)


def larger(a: Number, b: Number) -> Series:
    """The larger one."""
    return apply(Step("larger"), a, b)


def smaller(a: Number, b: Number) -> Series:
    """The smaller one."""
    return apply(Step("smaller"), a, b)


def root(x: Series) -> Series:
    """The square root."""
    return _arithmetic("sqrt({})", x)


def logarithm(x: Series) -> Series:
    """The natural logarithm."""
    return _arithmetic("log({})", x)


def previous(x: Series) -> Series:
    """The value before."""
    return apply(Step("previous", state="if", lookback=lambda: 1, settling=lambda: 1), x)


def diff(x: Series) -> Series:
    """The change from the value before."""
    return x - previous(x)


def lag(x: Series, n: int) -> Series:
    """The value n before."""
    step = Step("lag", state="ii", constants="i", slots=lambda n: n + 1, lookback=_all, settling=_all)
    return apply(step, x, constants=(n,))


def skip(x: Series, n: int) -> Series:
    """Null for the first n values, then x: what is seeded later."""
    return apply(Step("skip", state="i", constants="i", lookback=_all, settling=_all), x, constants=(n,))


# Over all that came ----------------------------------------------------------------------------


def cumsum(x: Series) -> Series:
    """The sum of all values so far."""
    return apply(Step("cumsum", state="f", settling=_never), x)


def session_sum(x: Series, session: Series) -> Series:
    """The sum of all values of the session so far."""
    return apply(Step("session_sum", state="ff", settling=_never), x, session)


def smooth(x: Series, n: int, alpha: float) -> Series:
    """Exponential smoothing by alpha, seeded with the mean of the first n values."""
    step = Step("ema", state="if", constants="if", lookback=_others, settling=lambda n, a: n + _weightless(a))
    return apply(step, x, constants=(n, alpha))


def ema(x: Series, n: int) -> Series:
    """The exponential moving average with a span of n: alpha is 2 / (n + 1)."""
    return smooth(x, n, 2 / (n + 1))


def wilder(x: Series, n: int) -> Series:
    """Wilder's smoothing: alpha is 1 / n."""
    return smooth(x, n, 1 / n)


def ema_of_all(x: Series, n: int) -> Series:
    """The exponential moving average that is seeded with the first value."""
    step = Step("ema_of_all", state="if", constants="f", settling=_weightless)
    return apply(step, x, constants=(2 / (n + 1),))


def wilder_sum(x: Series, n: int) -> Series:
    """Wilder's running sum, n times his smoothing."""
    settling = lambda n: n + _weightless(1 / n)  # noqa: E731
    return apply(Step("wilder_sum", state="if", constants="i", lookback=_others, settling=settling), x, constants=(n,))


# Over the last n -------------------------------------------------------------------------------


def sum_(x: Series, n: int) -> Series:
    """The sum of the last n values."""
    return _window("window_sum", "iif", 1, x, n)


def sma(x: Series, n: int) -> Series:
    """The mean of the last n values."""
    return sum_(x, n) / n


def max_(x: Series, n: int) -> Series:
    """The greatest of the last n values."""
    return _window("window_max", "iif", 1, x, n)


def min_(x: Series, n: int) -> Series:
    """The least of the last n values."""
    return -max_(-x, n)


def since_max(x: Series, n: int) -> Series:
    """How many values ago the greatest of the last n came; of equals the newest."""
    return _window("since_max", "iiifi", 2, x, n)


def since_min(x: Series, n: int) -> Series:
    """How many values ago the least of the last n came; of equals the newest."""
    return since_max(-x, n)


def weighted_sum(x: Series, n: int) -> Series:
    """The sum of the last n values with weights 1 (the oldest) to n."""
    return _window("weighted_sum", "iiff", 2, x, n)


def wma(x: Series, n: int) -> Series:
    """The linearly weighted mean of the last n values."""
    return weighted_sum(x, n) / (n * (n + 1) / 2)


def std(x: Series, n: int) -> Series:
    """The population standard deviation of the last n values."""
    return root(_window("variance", "iiff", 2, x, n))


def mean_deviation(x: Series, mean: Series, n: int) -> Series:
    """The mean distance of the last n values from their mean, which is given."""
    step = Step(
        "mean_deviation",
        state="ii",
        constants="i",
        slots=lambda n: n + 1,
        settling=_others,  # the mean is as late
    )
    return apply(step, x, mean, constants=(n,))


def _window(name: str, state: str, width: int, x: Series, n: int) -> Series:
    step = Step(
        name,
        state=state,
        constants="i",
        settles=True,
        slots=lambda n: width * n,
        lookback=_others,
        settling=_others,
    )
    return apply(step, x, constants=(n,))


# What has a rule of its own --------------------------------------------------------------------


def adaptive(x: Series, alpha: Series, seed: Series) -> Series:
    """Exponential smoothing by an alpha that changes, seeded where it begins with `seed`."""
    return apply(Step("adaptive", state="if", settling=_never), x, alpha, seed)


def adx_smoothing(x: Series, moves: Series, n: int) -> Series:
    """Wilder's smoothing that stands still while `moves` is zero."""
    step = Step("adx", state="if", constants="i", lookback=_others, settling=lambda n: n + _weightless(1 / n))
    return apply(step, x, moves, constants=(n,))


def parabolic_sar(high: Series, low: Series, acceleration: float, maximum: float) -> Series:
    """Wilder's parabolic stop and reverse."""
    step = Step("parabolic_sar", state="iifffff", constants="ff", lookback=lambda *_: 1, settling=_never)
    return apply(step, high, low, constants=(acceleration, maximum))


def supertrend(close: Series, upper: Series, lower: Series) -> tuple[Series, Series]:
    """The band that trails the close, and the side of it that the close is on: 1 above, -1 below."""
    band, side = apply_all(Step("supertrend", state="iifff", outputs=2, settling=_never), close, upper, lower)
    return band, side


# ------------------------------------------------------------------------------------------------


def _all(n: int) -> int:
    return n


def _others(n: int, *_: float) -> int:
    return n - 1


def _never(*_: float) -> None:
    return None


def _weightless(alpha: float) -> int:
    """After how many values what was before weighs less than the last bit of a float."""
    return 0 if alpha >= 1 else int(-37 / math.log(1 - alpha)) + 1
