"""Parses the text of a condition."""

import difflib
import math
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

from stockpulse.errors import InvalidInput
from stockpulse.indicators.aliases import OUTPUTS, parameter_name
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import MAX_PERIOD, Indicator
from stockpulse.rules.expression import FIELDS, Column, Expression, History, Instruction, Term, text_of
from stockpulse.rules.operators import BINARY, COMPARISONS, CONDITION, NUMBER, PREFIX, Operator
from stockpulse.rules.tokens import MEANT, Token, place_of, pointed, tokens

MAX_CHARACTERS: Final = 1000
"""The maximum length of a text."""

MAX_DEPTH: Final = 50
"""The maximum nesting of parentheses, `not` and unary minus."""

MAX_INDICATORS: Final = 32
"""The maximum number of different indicators with parameters; the outputs of one count once."""

MAX_HISTORIES: Final = 32
"""The maximum number of different functions of earlier bars."""

MAX_BARS_AGO: Final = 500
"""The longest way back of `x[n]` and `change_pct(n)`, in bars."""

_NAMES: Final = [name for one in CATALOGUE.values() for name in (one.name, *one.outputs)]

FUNCTIONS: Final = ("crosses_above", "crosses_below", "change_pct", "highest", "lowest")
"""The functions of earlier bars, beside `x[n]`."""


def parse(text: str, field: str = "where") -> Expression:
    """Parse a condition. Raises InvalidInput for `field`, with the place, the token found and the token expected."""
    parser = _Parser(text, field)
    parser.condition()
    return Expression(
        text.strip(), tuple(parser.terms), tuple(parser.fields), tuple(parser.program), tuple(parser.histories)
    )


class _Operand(NamedTuple):
    kind: str
    start: int


class _Argument(NamedTuple):
    number: str
    start: int
    named: bool


class _Parser:
    """Parses a text from left to right by operator precedence, and writes its program."""

    def __init__(self, text: str, field: str) -> None:
        self._text, self._field = text, field
        if len(text) > MAX_CHARACTERS:
            self._fail(MAX_CHARACTERS, f"found a text of {len(text):,} characters, expected at most {MAX_CHARACTERS:,}")
        self._rest = tokens(text)
        self._next = next(self._rest)
        self.program: list[Instruction] = []
        self.terms: dict[Term, None] = {}  # dicts keep the order of first use
        self.fields: dict[str, None] = {}
        self.histories: dict[History, None] = {}

    def condition(self) -> None:
        whole = self._expression(0, depth=0)
        if self._next.kind != "end":
            self._unexpected(self._next, "an operator or the end")
        if whole.kind != CONDITION:
            self._fail(whole.start, f"found {whole.kind} alone; takes a condition, such as rsi(14) < 30")

    def _expression(self, least: int, depth: int) -> _Operand:
        """Parse operators of at least this precedence, and their operands."""
        left = self._operand(depth)
        while (operator := BINARY.get(self._next.key)) and operator.precedence >= least:
            sign = self._take()
            self._check_left(left, sign, operator)
            right = self._expression(operator.precedence + 1, depth)
            self._check(right, operator, f"right of {sign.shown}")
            self.program.append(operator)
            left = _Operand(operator.gives, left.start)
        return left

    def _operand(self, depth: int) -> _Operand:
        begin, token, kind = len(self.program), self._take(), NUMBER
        match token.kind, token.key:
            case "number", _:
                self.program.append(self._number(token))
                return _Operand(kind, token.start)
            case "name", name if name in FUNCTIONS:
                kind = self._function(token, depth + 1)
            case "name", _:
                self.program.append(self._named(token))
            case "symbol", "(":
                kind = self._nested(token, depth + 1).kind
            case "symbol", "-" | "not":
                return self._nested(token, depth + 1)
            case _:
                self._unexpected(token, "a number, a field of the bars, an indicator or a function")
        while self._next.text == "[":
            self._bars_ago(begin, kind)
        return _Operand(kind, token.start)

    def _nested(self, token: Token, depth: int) -> _Operand:
        if depth > MAX_DEPTH:
            self._fail(token.start, f"found {token.shown} nested {depth} deep, expected at most {MAX_DEPTH}")
        operator = PREFIX.get(token.key)
        inner = self._expression(operator.precedence if operator else 0, depth)
        if operator is None:
            self._expect(")", "')' or an operator")
        else:
            self._check(inner, operator, f"after {token.shown}")
            self.program.append(operator)
        return _Operand(inner.kind, token.start)

    def _number(self, token: Token) -> float:
        number = float(token.text)
        if not math.isfinite(number):
            self._fail(token.start, f"found {token.shown}, expected a number of at most 1.7e308")
        return number

    # --- names and arguments ---------------------------------------------------------------------

    def _named(self, name: Token) -> Column:
        if name.key in OUTPUTS:
            return self._term(name).column
        if name.key not in FIELDS:
            known = _nearest(name.key, [*FIELDS, *FUNCTIONS, *_NAMES])
            self._unexpected(name, f"a field of the bars or an indicator{known}")
        if self._next.key == "(":
            self._unexpected(self._next, f"an operator: {name.key} is a field of the bars, without parameters")
        self.fields[name.key] = None
        return Column(name.key)

    def _term(self, name: Token) -> Term:
        indicator, output = OUTPUTS[name.key]
        given = self._arguments(indicator)
        try:
            values = indicator.validate({parameter: one.number for parameter, one in given.items()})
        except InvalidInput as error:
            # Two parameters can be wrong together, and the one in the message can be a default.
            self._fail(given[error.field].start if error.field in given else name.start, str(error))
        term = Term(indicator, tuple(values.items()), output)
        self.terms[term] = None
        count = len({(one.indicator.name, one.values) for one in self.terms})
        if count > MAX_INDICATORS:
            self._fail(name.start, f"found {term.label}, number {count}, expected at most {MAX_INDICATORS} indicators")
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
        name = self._take()
        own = parameter_name(indicator, name.key)
        if own is None:
            known = _nearest(name.key, [one.name for one in indicator.parameters])
            self._unexpected(name, f"a number or a parameter: {_parameters(indicator)}{known}")
        self._expect("=", f"'=' after {name.key}")
        return own

    def _positional(self, indicator: Indicator, given: Mapping[str, _Argument]) -> str:
        if any(one.named for one in given.values()):
            self._unexpected(self._next, "name=number, as the one before it")
        return indicator.parameters[len(given)].name

    def _literal(self) -> str:
        """Return a number as text: the parameter converts it, and quotes it if it refuses it."""
        sign = "-" if self._skips("-") else ""
        number = self._take()
        if number.kind != "number" and number.key not in {"true", "false"}:
            self._unexpected(number, "a number")
        return sign + number.text

    # --- functions of earlier bars ---------------------------------------------------------------

    def _bars_ago(self, begin: int, kind: str) -> None:
        """Parse `[n]`, and replace the program since `begin` by its value n bars ago."""
        self._expect("[", "'['")
        bars = self._bars(MAX_BARS_AGO)
        self._expect("]", "']'")
        inner = self._cut(begin)
        self.program.append(self._history(f"{text_of(inner)}[{bars}]", "lag", bars, inner, kind))

    def _function(self, name: Token, depth: int) -> str:
        """Parse the arguments of a function, and write its program; return the type of its result."""
        if depth > MAX_DEPTH:
            self._fail(name.start, f"found {name.shown} nested {depth} deep, expected at most {MAX_DEPTH}")
        begin = len(self.program)
        self._expect("(", f"'(' after {name.key}")
        match name.key:
            case "change_pct":
                self._change_pct(self._bars(MAX_BARS_AGO))
            case "highest" | "lowest":
                self._numeric_argument(name, depth)
                self._expect(",", f"',' and a number of bars: {name.key}(x, n)")
                bars, inner = self._bars(MAX_PERIOD), self._cut(begin)
                label = f"{name.key}({text_of(inner)}, {bars})"
                self.program.append(self._history(label, name.key, bars, inner, NUMBER))
            case _:
                self._numeric_argument(name, depth)
                self._expect(",", f"',' and a second value: {name.key}(a, b)")
                self._numeric_argument(name, depth)
                self._crossing(begin, BINARY[">" if name.key == "crosses_above" else "<"])
        self._expect(")", "')'")
        return CONDITION if name.key.startswith("crosses") else NUMBER

    def _numeric_argument(self, name: Token, depth: int) -> None:
        found = self._expression(0, depth)
        if found.kind != NUMBER:
            self._fail(found.start, f"found {found.kind}, expected a number in {name.key}")

    def _change_pct(self, bars: int) -> None:
        """Write the change of the close over some bars, in percent."""
        close, hundred = Column("close"), 100.0
        self.fields["close"] = None
        before = self._history(f"close[{bars}]", "lag", bars, (close,), NUMBER)
        self.program += [close, before, BINARY["-"], before, BINARY["/"], hundred, BINARY["*"]]

    def _crossing(self, begin: int, comparison: Operator) -> None:
        """Write the condition that a comparison of the two values since `begin` holds, and did not a bar ago."""
        now = (*self._cut(begin), comparison)
        before = self._history(f"{text_of(now)}[1]", "lag", 1, now, CONDITION)
        self.program += [*now, before, PREFIX["not"], BINARY["and"]]

    def _cut(self, begin: int) -> tuple[Instruction, ...]:
        """Remove and return the program since `begin`."""
        inner = tuple(self.program[begin:])
        del self.program[begin:]
        return inner

    def _history(self, label: str, function: str, bars: int, inner: tuple[Instruction, ...], kind: str) -> Column:
        history = History(label, function, bars, inner, kind)
        self.histories[history] = None
        if len(self.histories) > MAX_HISTORIES:
            self._fail(self._next.start, f"found more than {MAX_HISTORIES} functions of earlier bars")
        return history.column

    def _bars(self, most: int) -> int:
        """Parse a number of bars."""
        token = self._take()
        if token.kind != "number" or not token.text.isdigit() or not 1 <= int(token.text) <= most:
            self._unexpected(token, f"a number of bars from 1 to {most}")
        return int(token.text)

    # --- tokens and errors -----------------------------------------------------------------------

    def _take(self) -> Token:
        token = self._next
        self._next = next(self._rest, token)  # the end stays
        return token

    def _skips(self, symbol: str) -> bool:
        return self._next.text == symbol and bool(self._take())

    def _expect(self, symbol: str, expected: str) -> None:
        if not self._skips(symbol):
            self._unexpected(self._next, expected)

    def _check_left(self, left: _Operand, sign: Token, operator: Operator) -> None:
        if left.kind == CONDITION and sign.key in COMPARISONS:
            hint = "join comparisons with 'and', as in 1 < close and close < 2"
            self._fail(sign.start, f"found {sign.shown} after a condition, expected a number before it; {hint}")
        self._check(left, operator, f"left of {sign.shown}")

    def _check(self, operand: _Operand, operator: Operator, where: str) -> None:
        if operand.kind != operator.takes:
            self._fail(operand.start, f"found {operand.kind}, expected {operator.takes} {where}")

    def _unexpected(self, token: Token, expected: str) -> NoReturn:
        hint = f"; write {MEANT[token.text]!r}" if token.text in MEANT else ""
        self._fail(token.start, f"found {token.shown}, expected {expected}{hint}")

    def _fail(self, spot: int, message: str) -> NoReturn:
        place = place_of(self._text, spot)
        raise InvalidInput(self._field, f"{place}: {message}\n{pointed(self._text, spot)}") from None


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    found = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.65)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _parameters(indicator: Indicator) -> str:
    return ", ".join(one.name for one in indicator.parameters) or "no parameters"
