"""The small language of conditions on bars and indicators: "sma(20) > sma(50) and rsi(14) < 30".

    condition   or, and, not (in that order, the loosest first), and parentheses
    comparison  < <= > >= == != between two numbers, never chained
    number      + - * / and unary minus, parentheses, 1, 2.5, 1e6
    value       open high low close volume, or an indicator: rsi, rsi(14), rsi(period=14), macd_signal(12, 26, signal=9)

An indicator goes by the name of one of its outputs, or by its own, which means its first output. Names and words
are the same in any case. Types are checked as a text is read, so that what was parsed always evaluates.

A value that is missing is unknown, as is what cannot be computed from it; `and`, `or` and `not` are Kleene's.
"""

import difflib
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stockpulse.errors import InvalidInput
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import Indicator, Value

FIELDS: Final = ("open", "high", "low", "close", "volume")
"""What a bar itself gives. An indicator or an output of one must not have such a name."""

LONGEST: Final = 1000
"""Characters of a text."""

DEEPEST: Final = 50
"""Parentheses, `not` and unary minus within each other."""

MOST_INDICATORS: Final = 32
"""Different ones, with their parameters; the outputs of one count once."""

Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Term:
    """An output of an indicator with all of its parameters. What is written differently but means the same is equal."""

    indicator: Indicator
    values: tuple[tuple[str, Value], ...]
    output: int

    @property
    def label(self) -> str:
        """The one spelling of it, which parses to it again."""
        name = self.indicator.outputs[self.output]
        # In full: two factors that differ in the last digit are two terms.
        values = ", ".join(repr(value).removesuffix(".0") for _, value in self.values)
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
    """A condition, ready to be evaluated."""

    text: str
    terms: tuple[Term, ...]
    """The different ones, in the order of their first use."""
    fields: tuple[str, ...]
    """The fields of the bars, in the order of their first use."""
    program: "tuple[Step, ...]" = field(repr=False)

    def holds(self, values: Mapping[str, Numbers], rows: int) -> Flags:
        """Which of the `rows` satisfy the condition; one for which that is unknown does not.

        `values` has an array of `rows` numbers for each of `fields` and for the label of each of `terms`. NaN in
        them is unknown, and so are infinities, overflows and divisions by zero.
        """
        names = (*self.fields, *(term.label for term in self.terms))
        with np.errstate(all="ignore"):
            columns = {name: _column(values[name], name, rows) for name in names}
            return np.full(rows, _run(self.program, columns).yes, dtype=np.bool_)


def parse(text: str, field: str = "where") -> Expression:
    """Read a condition. Raises InvalidInput for `field`, with the place, what stands there and what is expected."""
    reader = _Reader(text, field)
    reader.condition()
    return Expression(text.strip(), tuple(reader.terms), tuple(reader.fields), tuple(reader.program))


# --- evaluation ----------------------------------------------------------------------------------


class _Truth(NamedTuple):
    """Where a condition is true, and where it is false. Where it is neither, it is unknown."""

    yes: Flags
    no: Flags


def _known(numbers: Any) -> Any:
    """Unknown has one form, NaN: an infinity is the mark of a division by zero or of an overflow."""
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
    if numbers.shape != (rows,):  # numpy would stretch a single number over all rows
        raise ValueError(f"{name}: has the shape {numbers.shape}, not {rows} rows")
    known: Numbers = _known(numbers)
    return known


def _run(program: "tuple[Step, ...]", columns: Mapping[str, Numbers]) -> _Truth:
    """A stack machine: however long a chain of operators is, it takes no recursion."""
    stack: list[Any] = []
    for step in program:
        match step:
            case float():
                stack.append(np.float64(step))
            case str():
                stack.append(columns[step])
            case _Operator():
                operands = stack[-step.operands :]
                stack[-step.operands :] = [step.function(*operands)]
    truth: _Truth = stack.pop()
    return truth


# --- the operators -------------------------------------------------------------------------------

_NUMBER: Final = "a number"
_CONDITION: Final = "a condition"


@dataclass(frozen=True)
class _Operator:
    """`binding` is how tightly it holds its operands, `takes` what they are and `gives` what it makes of them."""

    binding: int
    takes: str
    gives: str
    function: Callable[..., Any]
    operands: int = 2


Step: TypeAlias = float | str | _Operator
"""Of a program in postfix order: a number, the name of a column, or what is done with the last results."""

_COMPARISONS: Final = {
    symbol: _Operator(4, _NUMBER, _CONDITION, partial(_compare, function))
    for symbol, function in {
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
        "==": np.equal,
        "!=": np.not_equal,
    }.items()
}
_BINARY: Final = {
    "or": _Operator(1, _CONDITION, _CONDITION, _or),
    "and": _Operator(2, _CONDITION, _CONDITION, _and),
    **_COMPARISONS,
    "+": _Operator(5, _NUMBER, _NUMBER, partial(_arithmetic, np.add)),
    "-": _Operator(5, _NUMBER, _NUMBER, partial(_arithmetic, np.subtract)),
    "*": _Operator(6, _NUMBER, _NUMBER, partial(_arithmetic, np.multiply)),
    "/": _Operator(6, _NUMBER, _NUMBER, partial(_arithmetic, np.divide)),
}
_PREFIX: Final = {
    "not": _Operator(3, _CONDITION, _CONDITION, _not, operands=1),
    "-": _Operator(7, _NUMBER, _NUMBER, partial(_arithmetic, np.negative), operands=1),
}

# --- words ---------------------------------------------------------------------------------------

_WORDS: Final = ("and", "or", "not")
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number> (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:[eE][-+]?[0-9]+)? (?![\w.]) )
      | (?P<name>   [A-Za-z_][A-Za-z0-9_]* (?!\w) )
      | (?P<symbol> [<>=!]= | [-+*/<>=(),] )
      | (?P<end>    \Z )
      | (?P<alien>  && | \|\| | \.?\w[\w.]* | . )  # the reader says what it expected instead
    )""",
    re.VERBOSE | re.DOTALL,
)
_MEANT: Final = {
    "=": "==", "&": "and", "&&": "and", "|": "or", "||": "or", "!": "not",
    "\u2264": "<=", "\u2265": ">=", "\u2260": "!=",
}  # fmt: skip
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = 40
_WINDOW: Final = 80
_OUTPUTS: Final[dict[str, tuple[Indicator, int]]] = {
    **{one.name: (one, 0) for one in CATALOGUE.values()},
    **{name: (one, output) for one in CATALOGUE.values() for output, name in enumerate(one.outputs)},
}


class _Token(NamedTuple):
    kind: str
    text: str
    start: int

    @property
    def key(self) -> str:
        return self.text.lower()

    @property
    def shown(self) -> str:
        return _SHORT.repr(self.text) if self.text else "the end"


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text.rstrip()):
        kind = str(match.lastgroup)
        token = _Token(kind, match[kind], match.start(kind))
        yield token._replace(kind="symbol") if token.key in _WORDS else token


def _place(text: str, spot: int) -> str:
    lines = text[:spot].split("\n")
    column = f"column {len(lines[-1]) + 1}"
    return f"line {len(lines)}, {column}" if "\n" in text else column


def _pointed(text: str, spot: int) -> str:
    """The line of the spot, or what stands around it there, with a caret below."""
    start, stop = text.rfind("\n", 0, spot) + 1, text.find("\n", spot)
    stop = len(text) if stop < 0 else stop
    first = max(start, min(spot - _WINDOW // 2, stop - _WINDOW))
    last = min(first + _WINDOW, stop)
    before, after = "…" * (first > start), "…" * (last < stop)
    # A tab, or half a surrogate pair, would shift the caret or break the message.
    line = "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text[first:last])
    return f"  {before}{line}{after}\n  {' ' * (len(before) + spot - first)}^"


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    found = difflib.get_close_matches(name, [*known], n=3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _parameters(indicator: Indicator) -> str:
    return ", ".join(one.name for one in indicator.parameters) or "no parameters"


# --- the reader ----------------------------------------------------------------------------------


class _Operand(NamedTuple):
    kind: str
    start: int


class _Argument(NamedTuple):
    number: str
    start: int
    named: bool


class _Reader:
    """Reads a text from left to right, by the binding of its operators, and writes its program."""

    def __init__(self, text: str, field: str) -> None:
        self._text, self._field = text, field
        if len(text) > LONGEST:
            self._fail(LONGEST, f"found a text of {len(text):,} characters, expected at most {LONGEST:,}")
        self._rest = _tokens(text)
        self._next = next(self._rest)
        self.program: list[Step] = []
        self.terms: dict[Term, None] = {}  # dicts, for the order of first use
        self.fields: dict[str, None] = {}

    def condition(self) -> None:
        whole = self._expression(0, depth=0)
        if self._next.kind != "end":
            self._unexpected(self._next, "an operator or the end")
        if whole.kind != _CONDITION:
            self._fail(whole.start, f"found {whole.kind} alone; takes a condition, such as rsi(14) < 30")

    def _expression(self, least: int, depth: int) -> _Operand:
        """All that is held by operators of at least this binding."""
        left = self._operand(depth)
        while (operator := _BINARY.get(self._next.key)) and operator.binding >= least:
            sign = self._take()
            self._check_left(left, sign, operator)
            right = self._expression(operator.binding + 1, depth)
            self._check(right, operator, f"right of {sign.shown}")
            self.program.append(operator)
            left = _Operand(operator.gives, left.start)
        return left

    def _operand(self, depth: int) -> _Operand:
        token = self._take()
        match token.kind, token.key:
            case "number", _:
                self.program.append(self._number(token))
            case "name", _:
                self.program.append(self._named(token))
            case "symbol", "(" | "-" | "not":
                return self._nested(token, depth + 1)
            case _:
                self._unexpected(token, "a number, a field of the bars or an indicator")
        return _Operand(_NUMBER, token.start)

    def _nested(self, token: _Token, depth: int) -> _Operand:
        if depth > DEEPEST:
            self._fail(token.start, f"found {token.shown} nested {depth} deep, expected at most {DEEPEST}")
        operator = _PREFIX.get(token.key)
        inner = self._expression(operator.binding if operator else 0, depth)
        if operator is None:
            self._expect(")", "')' or an operator")
        else:
            self._check(inner, operator, f"after {token.shown}")
            self.program.append(operator)
        return _Operand(inner.kind, token.start)

    def _number(self, token: _Token) -> float:
        number = float(token.text)
        if not np.isfinite(number):
            self._fail(token.start, f"found {token.shown}, expected a number of at most 1.7e308")
        return number

    # --- names and arguments ---------------------------------------------------------------------

    def _named(self, name: _Token) -> str:
        if name.key in _OUTPUTS:
            return self._term(name).label
        if name.key not in FIELDS:
            known = _nearest(name.key, [*FIELDS, *_OUTPUTS])
            self._unexpected(name, f"a field of the bars or an indicator{known}")
        if self._next.key == "(":
            self._unexpected(self._next, f"an operator: {name.key} is a field of the bars, without parameters")
        self.fields[name.key] = None
        return name.key

    def _term(self, name: _Token) -> Term:
        indicator, output = _OUTPUTS[name.key]
        given = self._arguments(indicator)
        try:
            values = indicator.checked({parameter: one.number for parameter, one in given.items()})
        except InvalidInput as error:
            # Two parameters can be wrong together, and the one that is named can be a default.
            self._fail(given[error.field].start if error.field in given else name.start, str(error))
        term = Term(indicator, tuple(values.items()), output)
        self.terms[term] = None
        count = len({(one.indicator.name, one.values) for one in self.terms})
        if count > MOST_INDICATORS:
            self._fail(name.start, f"found {term.label}, number {count}, expected at most {MOST_INDICATORS} indicators")
        return term

    def _arguments(self, indicator: Indicator) -> dict[str, _Argument]:
        given: dict[str, _Argument] = {}
        if not self._skips("(") or self._skips(")"):
            return given
        while len(given) < len(indicator.parameters) and (not given or self._skips(",")):
            start, named = self._next.start, self._next.kind == "name"
            name = self._keyword(indicator) if named else self._positional(indicator, given)
            if name in given:
                self._fail(start, f"found {name} again, expected it once")
            given[name] = _Argument(self._literal(), start, named)
        full = len(given) == len(indicator.parameters)
        self._expect(")", f"')': {indicator.name} takes {_parameters(indicator)}" if full else "',' or ')'")
        return given

    def _keyword(self, indicator: Indicator) -> str:
        name, known = self._take(), [one.name for one in indicator.parameters]
        if name.key not in known:
            self._unexpected(name, f"a number or a parameter: {_parameters(indicator)}{_nearest(name.key, known)}")
        self._expect("=", f"'=' after {name.key}")
        return name.key

    def _positional(self, indicator: Indicator, given: Mapping[str, _Argument]) -> str:
        if any(one.named for one in given.values()):
            self._unexpected(self._next, "name=number, as the one before it")
        return indicator.parameters[len(given)].name

    def _literal(self) -> str:
        """As it is written: the parameter reads it, and quotes it where it does not take it."""
        sign = "-" if self._skips("-") else ""
        number = self._take()
        if number.kind != "number":
            self._unexpected(number, "a number")
        return sign + number.text

    # --- tokens and errors -----------------------------------------------------------------------

    def _take(self) -> _Token:
        token = self._next
        self._next = next(self._rest, token)  # the end stays
        return token

    def _skips(self, symbol: str) -> bool:
        return self._next.text == symbol and bool(self._take())

    def _expect(self, symbol: str, expected: str) -> None:
        if not self._skips(symbol):
            self._unexpected(self._next, expected)

    def _check_left(self, left: _Operand, sign: _Token, operator: _Operator) -> None:
        if left.kind == _CONDITION and sign.key in _COMPARISONS:
            hint = "join comparisons with 'and', as in 1 < close and close < 2"
            self._fail(sign.start, f"found {sign.shown} after a condition, expected a number before it; {hint}")
        self._check(left, operator, f"left of {sign.shown}")

    def _check(self, operand: _Operand, operator: _Operator, where: str) -> None:
        if operand.kind != operator.takes:
            self._fail(operand.start, f"found {operand.kind}, expected {operator.takes} {where}")

    def _unexpected(self, token: _Token, expected: str) -> NoReturn:
        hint = f"; write {_MEANT[token.text]!r}" if token.text in _MEANT else ""
        self._fail(token.start, f"found {token.shown}, expected {expected}{hint}")

    def _fail(self, spot: int, message: str) -> NoReturn:
        place = _place(self._text, spot)
        raise InvalidInput(self._field, f"{place}: {message}\n{_pointed(self._text, spot)}") from None
