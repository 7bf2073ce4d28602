import contextlib
import dataclasses
import itertools
import math
import operator
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from stockpulse.errors import InvalidInput
from stockpulse.indicators.algebra import CALENDAR_INPUTS, INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.rules import FIELDS, MAX_CHARACTERS, MAX_DEPTH, MAX_INDICATORS, Expression, Term, parse
from stockpulse.rules.expression import run
from stockpulse.rules.operators import ROUNDING

NAN, INF = math.nan, math.inf
TRUE, FALSE, UNKNOWN = "1 < 2", "2 < 1", "1 / 0 < 1"


def truth(text, **columns):
    """The result of a condition for one row: True, False, or None if both it and its opposite do not hold."""
    values = {name: np.array([value], dtype=np.float64) for name, value in columns.items()}
    yes, no = (bool(parse(one).holds(values, rows=1)[0]) for one in (text, f"not ({text})"))
    assert not (yes and no)
    return None if not (yes or no) else yes


def labels(text):
    return [term.label for term in parse(text).terms]


def refusal(text, field="where"):
    with pytest.raises(InvalidInput) as caught:
        parse(text, field)
    assert caught.value.field == field
    return str(caught.value)


# --- the meaning of a text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2 + 3 * 4 == 14", True),
        ("(2 + 3) * 4 == 20", True),
        ("2 * 3 + 4 == 10", True),
        ("10 - 2 * 3 == 4", True),
        ("10 - 6 / 2 == 7", True),
        ("10 - 4 - 3 == 3", True),
        ("10 - (4 - 3) == 9", True),
        ("16 / 4 / 2 == 2", True),
        ("16 / 4 * 2 == 8", True),
        ("10 - 4 + 3 == 9", True),
        ("-2 + 3 == 1", True),
        ("2 - -3 == 5", True),
        ("- - 2 == 2", True),
        ("2 * -3 == -6", True),
        ("-6 / 2 == -3", True),
        ("-(2 + 3) == -5", True),
        ("1 + 1 < 1 * 3", True),
        ("2 < 1 and 2 < 1 or 1 < 2", True),
        ("1 < 2 or 1 < 2 and 2 < 1", True),
        ("(1 < 2 or 1 < 2) and 2 < 1", False),
        ("not 2 < 1 and 2 < 1", False),
        ("not (2 < 1 and 2 < 1)", True),
        ("not 1 < 2 or 1 < 2", True),
        ("not (1 < 2 or 1 < 2)", False),
        ("not not 1 < 2", True),
        ("1 < 2 and not 2 < 1", True),
        ("NOT 2 < 1 AND 1 < 2 oR 2 < 1", True),
        ("\n1\t<\xa02 ", True),
        ("1<2and 2<3", None),
    ],
)
def test_operators_bind_and_associate_as_in_mathematics(text, means):
    if means is None:
        assert "found '2and'" in refusal(text)
    else:
        assert truth(text) is means


@pytest.mark.parametrize(
    ("symbol", "less", "equal", "greater"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        (">", False, False, True),
        (">=", False, True, True),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_comparisons(symbol, less, equal, greater):
    for close, expected in ((1, less), (2, equal), (3, greater)):
        assert truth(f"close {symbol} 2", close=close) is expected
    assert truth(f"close {symbol} 2", close=NAN) is None
    assert truth(f"2 {symbol} close", close=NAN) is None
    assert truth(f"close {symbol} close", close=NAN) is None


@pytest.mark.parametrize("text", ["1000", "1e3", "1E+3", "10000e-1", "1000.", "1000.0", "0.1e4", ".1e4", "01000"])
def test_every_customary_spelling_of_a_number(text):
    assert truth(f"{text} == 1000") is True


@pytest.mark.parametrize(
    ("left", "right", "both", "either"),
    [
        (TRUE, TRUE, True, True),
        (TRUE, FALSE, False, True),
        (TRUE, UNKNOWN, None, True),
        (FALSE, TRUE, False, True),
        (FALSE, FALSE, False, False),
        (FALSE, UNKNOWN, False, None),
        (UNKNOWN, TRUE, None, True),
        (UNKNOWN, FALSE, False, None),
        (UNKNOWN, UNKNOWN, None, None),
    ],
)
def test_and_and_or_are_kleenes(left, right, both, either):
    assert truth(f"{left} and {right}") is both
    assert truth(f"{left} or {right}") is either


@pytest.mark.parametrize(("text", "opposite"), [(TRUE, False), (FALSE, True), (UNKNOWN, None)])
def test_not_is_kleenes(text, opposite):
    assert truth(f"not {text}") is opposite


@pytest.mark.parametrize(
    ("text", "means"),
    [
        *(("1 / close < 1", None), ("-1 / close < 1", None), ("close / close < 1", None)),
        *(("1e308 * 10 > 1", None), ("-1e308 - 1e308 < 1", None), ("1 / (1e308 * 10) == 0", None)),
        *(("open > 1", None), ("1 / open == 0", None), ("0 * open == 0", None), ("-open < 1", None)),
        *(("low > 1", None), ("low < 1", None), ("0 / 1 == 0", True), ("1e-300 * 1e-300 == 0", True)),
    ],
)
def test_what_has_no_finite_value_is_unknown(text, means):
    assert truth(text, close=0, open=INF, low=-INF) is means


def test_every_row_is_judged_by_itself():
    values = {"close": np.array([1, 2, NAN, 4, 5]), "sma(20)": np.array([2, 1, 1, NAN, 4]), "rsi(14)": np.full(5, 20.0)}
    held = parse("close > sma(20) and rsi < 30").holds(values, rows=5)
    assert held.dtype == np.bool_
    assert held.tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_condition_on_numbers_alone_holds_for_all_rows_or_for_none(rows):
    assert parse("1 < 2").holds({}, rows).tolist() == [True] * rows
    assert parse("2 < 1").holds({}, rows).tolist() == [False] * rows


def test_columns_may_be_more_than_are_used_and_whole_numbers_and_stay_as_they_are():
    values = {"volume": np.array([1, 0]), "close": np.array([INF, 2.0]), "high": np.array([0])}
    assert parse("2 / volume > 1 and close != 1").holds(values, rows=2).tolist() == [False, False]
    assert values["close"].tolist() == [INF, 2.0]


@pytest.mark.parametrize("column", [[1.0], [1.0] * 3, [[1.0, 1.0]], 1.0])
def test_a_column_of_another_length_is_not_stretched(column):
    with pytest.raises(ValueError, match="close: has the shape"):
        parse("close > 0").holds({"close": np.array(column)}, rows=2)


# --- names and terms -----------------------------------------------------------------------------


def test_names_are_unambiguous():
    outputs = [name for one in CATALOGUE.values() for name in one.outputs]
    assert set(FIELDS) == set(INPUTS) - {*CALENDAR_INPUTS}
    assert not set(FIELDS) & {*outputs, *CATALOGUE}
    assert not {"and", "or", "not"} & {*outputs, *CATALOGUE}
    assert len(outputs) == len(set(outputs))
    for one in CATALOGUE.values():  # an indicator whose name is an output's means that one either way
        assert one.name not in outputs or one.outputs[0] == one.name
    for name in (*outputs, *CATALOGUE, *(one.name for each in CATALOGUE.values() for one in each.parameters)):
        assert name == name.lower()
        assert name.isidentifier()


def test_every_output_of_every_indicator_is_a_term_whose_label_parses_to_it():
    for one in CATALOGUE.values():
        assert parse(f"{one.name} > 0").terms[0].output == 0
        for output, name in enumerate(one.outputs):
            (term,) = parse(f"{name} > 0").terms
            assert (term.indicator, term.output, dict(term.values)) == (one, output, one.validate({}))
            assert parse(f"0 < {term.label}").terms == (term,)


@pytest.mark.parametrize(
    ("label", "spellings"),
    [
        ("rsi(14)", "rsi RSI rsi() rsi(14) Rsi(14.0) rsi(1.4e1) rsi(PERIOD=14) rsi(period=14)"),
        ("sma(50)", "sma(50) SMA(period=50)"),
        ("vwap", "vwap VWAP vwap()"),
        ("macd(12, 26, 9)", "macd macd(12) macd(12,26,9) macd(signal=9,slow=26,fast=12)"),
        ("macd_signal(12, 26, 10)", "macd_signal(12,26,signal=10) macd_signal(signal=10) Macd_Signal(12,26,10)"),
        ("bb_upper(20, 2)", "bollinger bb_upper bb_upper(20,2) bollinger(20,2.0) bb_upper(deviations=2)"),
        ("bb_upper(20, 2.5)", "bollinger(20,2.5) bb_upper(20,2.5) bb_upper(20,25e-1)"),
        ("true_range", "trange true_range"),
    ],
)
def test_equal_terms_have_one_label(label, spellings):
    found = [parse(f"{one} > 0").terms for one in spellings.split()]
    assert {(terms[0].label, len(terms)) for terms in found} == {(label, 1)}
    assert len({terms[0] for terms in found}) == 1
    assert labels(" + ".join(spellings.split()) + " > 0") == [label]


def test_terms_that_differ_are_different():
    written = (
        "macd + macd_signal + macd(11) + macd(12, 26, 8) + sma + sma(21) + ema + bb_upper + bb_upper(20, 2.0000001)"
    )
    terms = parse(f"{written} > 0").terms
    assert len(terms) == len(set(terms)) == len({term.label for term in terms}) == 9
    assert all(a != b for a, b in itertools.combinations(terms, 2))
    assert terms[0] != terms[0].label


def test_a_term_is_known_by_the_name_of_its_indicator():
    (term,) = parse("rsi > 0").terms
    again = Term(indicator=dataclasses.replace(CATALOGUE["rsi"]), values=(("period", 14),), output=0)
    assert (again, hash(again)) == (term, hash(term))


def test_terms_and_fields_stand_in_the_order_of_their_first_use():
    found = parse("  volume > 1 and rsi > sma(5)\n or Close > macd_signal and (VOLUME < rsi(14) or low > 0) ")
    assert found.text == "volume > 1 and rsi > sma(5)\n or Close > macd_signal and (VOLUME < rsi(14) or low > 0)"
    assert [term.label for term in found.terms] == ["rsi(14)", "sma(5)", "macd_signal(12, 26, 9)"]
    assert found.fields == ("volume", "close", "low")
    assert parse("1 < 2").terms == parse("1 < 2").fields == ()
    assert {parse("rsi < 30"): 1}[parse("rsi < 30")] == 1


# --- errors --------------------------------------------------------------------------------------

KELTNER = "keltner_upper or keltner_lower or keltner"
A_VALUE = "a number, a field of the bars, an indicator or a function"
A_NAME = "a field of the bars or an indicator"
MORE = "an operator or the end"
ALONE = "found {} alone; takes a condition, such as rsi(14) < 30"
JOIN = "join comparisons with 'and', as in 1 < close and close < 2"
CHAIN = f"found {{}} after a condition, expected a number before it; {JOIN}"


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, f"found the end, expected {A_VALUE}"),
        (" \t", 1, f"found the end, expected {A_VALUE}"),
        ("close >", 8, f"found the end, expected {A_VALUE}"),
        ("close >   ", 8, f"found the end, expected {A_VALUE}"),
        ("1 < 2 and", 10, f"found the end, expected {A_VALUE}"),
        ("sma(20) >> 3", 10, f"found '>', expected {A_VALUE}"),
        ("* 3 > 1", 1, f"found '*', expected {A_VALUE}"),
        ("+3 > 1", 1, f"found '+', expected {A_VALUE}"),
        ("2 ** 3 > 1", 4, f"found '*', expected {A_VALUE}"),
        ("close > ()", 10, f"found ')', expected {A_VALUE}"),
        ("1 < and", 5, f"found 'and', expected {A_VALUE}"),
        ("close open > 1", 7, f"found 'open', expected {MORE}"),
        ("1 < 2 not 3 < 4", 7, f"found 'not', expected {MORE}"),
        ("close > 1)", 10, f"found ')', expected {MORE}"),
        ("close > 1,", 10, f"found ',', expected {MORE}"),
        ("(close) (1) > 1", 9, f"found '(', expected {MORE}"),
        ("close % 2 == 1", 7, f"found '%', expected {MORE}"),
        ("rsi = 14", 5, f"found '=', expected {MORE}; write '=='"),
        ("1 < 2 && 2 < 3", 7, f"found '&&', expected {MORE}; write 'and'"),
        ("1 < 2 || 2 < 3", 7, f"found '||', expected {MORE}; write 'or'"),
        ("! 1 < 2", 1, f"found '!', expected {A_VALUE}; write 'not'"),
        ("close \u2265 3", 7, f"found '\u2265', expected {MORE}; write '>='"),
        ("14abc > 1", 1, f"found '14abc', expected {A_VALUE}"),
        ("1.2.3 > 1", 1, f"found '1.2.3', expected {A_VALUE}"),
        ("1e > 1", 1, f"found '1e', expected {A_VALUE}"),
        ("1_000 > 1", 1, f"found '1_000', expected {A_VALUE}"),
        ("\u0665 > 1", 1, f"found '\u0665', expected {A_VALUE}"),
        ("close.x > 1", 6, f"found '.x', expected {MORE}"),
        ("'close' > 1", 1, f'found "\'", expected {A_VALUE}'),
        ("1 < sm\u00e5", 5, f"found 'sm\u00e5', expected {A_VALUE}"),
        ("1 < \u212aama", 5, f"found '\u212aama', expected {A_VALUE}"),
        ("1e999 > 1", 1, "found '1e999', expected a number of at most 1.7e308"),
        # types
        ("sma(20) + 1", 1, ALONE.format("a number")),
        ("  (close)", 3, ALONE.format("a number")),
        ("not close", 5, "found a number, expected a condition after 'not'"),
        ("1 and 2 < 3", 1, "found a number, expected a condition left of 'and'"),
        ("2 < 3 OR close * 2", 10, "found a number, expected a condition right of 'OR'"),
        ("1 < 2 and 3 or 4 < 5", 11, "found a number, expected a condition right of 'and'"),
        ("1 < (2 < 3)", 5, "found a condition, expected a number right of '<'"),
        ("1 < 2 < 3", 7, CHAIN.format("'<'")),
        ("1 < close + 1 <= 3", 15, CHAIN.format("'<='")),
        ("not 1 < 2 == 3", 11, CHAIN.format("'=='")),
        ("(1 < 2) == (2 < 3)", 9, CHAIN.format("'=='")),
        ("(1 < 2) + 3 < 2", 1, "found a condition, expected a number left of '+'"),
        ("1 < 3 * (1 < 2)", 9, "found a condition, expected a number right of '*'"),
        ("-(1 < 2) < 3", 2, "found a condition, expected a number after '-'"),
        ("1 + not 2 < 3", 5, "found a condition, expected a number right of '+'"),
        # parentheses
        ("(close > 1", 11, "found the end, expected ')' or an operator"),
        ("(close > 1 2", 12, "found '2', expected ')' or an operator"),
        # names
        ("smaa > 1", 1, f"found 'smaa', expected {A_NAME}; did you mean sma?"),
        ("CLOS > 1", 1, f"found 'CLOS', expected {A_NAME}; did you mean close?"),
        ("1 < keltner_uper", 5, f"found 'keltner_uper', expected {A_NAME}; did you mean {KELTNER}?"),
        ("qqqq > 1", 1, f"found 'qqqq', expected {A_NAME}"),
        ("session > 1", 1, f"found 'session', expected {A_NAME}"),
        ("close(3) > 1", 6, "found '(', expected an operator: close is a field of the bars, without parameters"),
        # arguments
        ("rsi(14.5) < 3", 5, "period: got 14.5; takes a whole number from 2 to 5000"),
        ("rsi(period=0) < 3", 5, "period: got 0; takes a whole number from 2 to 5000"),
        ("rsi( -3) < 3", 6, "period: got -3; takes a whole number from 2 to 5000"),
        ("rsi(1e999) < 3", 5, "period: got 1e999; takes a whole number from 2 to 5000"),
        ("bb_upper(20, 0) < 3", 14, "deviations: got 0; takes a number from 0.0001 to 1000.0"),
        ("macd(30) > 0", 6, "fast: got 30; takes no more than slow, which is 26"),
        ("1 < macd(slow=5)", 5, "fast: got 12; takes no more than slow, which is 5"),
        ("rsi(14, 3) > 1", 7, "found ',', expected ')': rsi takes period"),
        ("rsi(14,) > 1", 7, "found ',', expected ')': rsi takes period"),
        ("rsi(14, period=14) > 1", 7, "found ',', expected ')': rsi takes period"),
        ("rsi(14 + 1) > 1", 8, "found '+', expected ')': rsi takes period"),
        ("vwap(3) > 1", 6, "extended: got '3'; takes a flag: true or false"),
        ("obv(3) > 1", 5, "found '3', expected ')': obv takes no parameters"),
        ("vwap(x=3) > 1", 6, "found 'x', expected a number or a parameter: extended"),
        ("obv(x=3) > 1", 5, "found 'x', expected ')': obv takes no parameters"),
        ("macd(1 2) > 1", 8, "found '2', expected ',' or ')'"),
        ("macd(12,) > 1", 9, "found ')', expected a number"),
        ("macd(12", 8, "found the end, expected ',' or ')'"),
        ("rsi(", 5, "found the end, expected a number"),
        ("rsi(- -1) > 1", 7, "found '-', expected a number"),
        ("rsi((1)) > 1", 5, "found '(', expected a number"),
        ("rsi(close) > 1", 5, "found 'close', expected a number or a parameter: period"),
        ("macd(slw=3) > 1", 6, "found 'slw', expected a number or a parameter: fast, slow, signal; did you mean slow?"),
        ("rsi(period) > 1", 11, "found ')', expected '=' after period"),
        ("rsi(period=) > 1", 12, "found ')', expected a number"),
        ("rsi(period=close) > 1", 12, "found 'close', expected a number"),
        ("macd(12, FAST=3) > 1", 10, "found fast again, expected it once"),
        ("macd(fast=3, 4) > 1", 14, "found '4', expected name=number, as the one before it"),
    ],
)  # fmt: skip
def test_an_error_says_where_it_is_what_is_there_and_what_is_expected(text, column, message):
    shown = text.replace("\t", " ")
    assert refusal(text) == f"where: column {column}: {message}\n  {shown}\n  {' ' * (column - 1)}^"


def test_an_error_is_for_the_field_that_was_given():
    assert refusal("1", field="rules.3.when").startswith("rules.3.when: column 1: found a number alone")


def test_of_several_lines_the_one_is_shown():
    text = "close > 1\n\tand smaa > 2\n\tor rsi < 3"
    assert refusal(text).splitlines() == [
        "where: line 2, column 6: found 'smaa', expected a field of the bars or an indicator; did you mean sma?",
        "   and smaa > 2",
        "       ^",
    ]
    assert refusal("close >\n").splitlines()[0].startswith("where: line 1, column 8: found the end")
    assert refusal("\n\nclose").splitlines()[0].startswith("where: line 3, column 1: found a number alone")


@pytest.mark.parametrize("before", [0, 1, 3, 4, 20, 60])
@pytest.mark.parametrize("after", [0, 1, 3, 4, 20])
def test_of_a_long_text_what_stands_around_the_place_is_shown(before, after):
    _, shown, caret = refusal("1 < 22 and " * before + "@" + " and 1 < 22" * after).splitlines()
    assert shown[caret.index("^")] == "@"
    assert len(shown) <= 2 + 80 + 2
    assert shown.startswith("  …") == (before > 7 or (before > 3 and after > 3))
    assert shown.endswith("…") == (after > 7 or (before + after > 7 and after > 3))


def test_what_cannot_be_printed_does_not_break_the_message():
    message = refusal("close\x00 > 1\x1b[0m \ud800")
    assert message.splitlines()[1] == "  close\ufffd > 1\ufffd[0m \ufffd"
    assert "found '\\x00'" in message
    message.encode()


def test_a_long_word_is_not_repeated_in_full():
    assert len(refusal("x" * MAX_CHARACTERS)) < 300


# --- limits --------------------------------------------------------------------------------------


def test_a_text_has_at_most_so_many_characters():
    assert isinstance(parse("1 < 2".ljust(MAX_CHARACTERS)), Expression)
    assert refusal("1 < 2".ljust(MAX_CHARACTERS + 1)).startswith(
        "where: column 1001: found a text of 1,001 characters, expected at most 1,000\n"
    )
    assert len(refusal("(\n" * 1_000_000)) < 300


@pytest.mark.parametrize(
    ("opening", "middle", "closing"),
    [
        ("(", "1 < 2", ")"),
        ("(", "1", ")"),
        ("not ", "1 < 2", ""),
        ("- ", "1 < 2", ""),
        ("not (", "1 < 2", ")"),
        ("-(", "1", ")"),
    ],
)
def test_a_text_is_nested_at_most_so_deep(opening, middle, closing):
    times = MAX_DEPTH // len(opening.replace("not", "!").replace(" ", ""))
    most = opening * times + middle + closing * times
    assert isinstance(parse(most if "<" in most else f"{most} < 2"), Expression)
    message = refusal(opening * (times + 1) + middle + closing * (times + 1))
    first = opening.split("(")[0].strip() or "("
    assert message.startswith(
        f"where: column {times * len(opening) + 1}: found {first!r} nested 51 deep, expected at most 50\n"
    )


def test_what_stands_beside_each_other_is_not_nested():
    assert truth(" or ".join(["not (-1 < 2)"] * 60)) is False
    assert truth("1 > " + " + ".join(["-(1)"] * 120)) is True


def test_no_text_takes_much_of_the_stack():
    worst = "1<1 or 1<1 and 1<1+1*("
    with shallow_stack(MAX_DEPTH * 8 + 60):
        assert "found the end" in refusal(worst * (MAX_CHARACTERS // len(worst)))
        assert truth("1" + "+1" * 490 + ">490") is True
        assert truth("1<2" + " or 1<2" * 120) is True


@contextlib.contextmanager
def shallow_stack(frames):
    depth, frame, before = 0, sys._getframe(), sys.getrecursionlimit()
    while frame:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def test_there_are_at_most_so_many_indicators():
    many = " + ".join(f"sma({n})" for n in range(1, MAX_INDICATORS + 1))
    assert len(parse(f"{many} > 1").terms) == MAX_INDICATORS
    assert len(parse(f"{many} + sma(1) + SMA(period=2) > 1").terms) == MAX_INDICATORS
    message = refusal(f"{many} > ema(3)")
    assert f"column {len(many) + 4}: found ema(3), number 33, expected at most 32 indicators\n" in message


def test_the_outputs_of_an_indicator_count_once():
    many = " + ".join(f"macd({n}) + macd_signal({n}) + macd_histogram({n})" for n in range(2, 18))
    assert len(parse(f"{many} > 1").terms) == 48


# --- any text ------------------------------------------------------------------------------------

WORDS = (
    "<", "<=", ">", ">=", "==", "!=", "+", "-", "*", "/", "(", ")", ",", "=", "and", "or", "not", "NOT", "1",
    "2.5", "1e3", ".5", "1e999", "close", "volume", "high", "sma(20)", "sma(", "rsi", "rsi(", "period",
    "period=14", "macd_signal(12,26,", "signal=", "bb_upper(", "x", "&", "!", "@", "1.2.3", "vwap",
)  # fmt: skip
PIECES = st.sampled_from(
    ("1", "close", "rsi(14)", "-", "+", "/", "<", ">", "and", "or", "not", "(", ")", "1 < 2", "(close > 1)")
)


@pytest.mark.thorough
@hypothesis.settings(max_examples=2000)
@hypothesis.given(
    st.one_of(
        st.text(max_size=30),
        st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join),
        st.lists(st.sampled_from(WORDS), max_size=25).map("".join),
        st.lists(PIECES, max_size=12).map(" ".join),
    )
)
@pytest.mark.slow
def test_any_text_is_evaluated_or_refused_with_a_caret(text):
    try:
        found = parse(text)
    except InvalidInput as error:
        head, _, caret = str(error).rsplit("\n", 2)
        assert head.startswith("where: ")
        assert "\n" not in head
        assert caret.strip() == "^"
    else:
        columns = {name: np.array([1.0, NAN]) for name in (*found.fields, *(term.label for term in found.terms))}
        assert found.holds(columns, rows=2).shape == (2,)


# --- against Python ------------------------------------------------------------------------------
# A tree is a number, the name of a column, or (operator, operand, ...). None is unknown.

COMPARE = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
COMPUTE = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
TIGHTNESS = {"or": 1, "and": 2, "not": 3, **dict.fromkeys(COMPARE, 4), "+": 5, "-": 5, "*": 6, "/": 6, "negative": 7}
COLUMNS = {  # each in some of its forms
    "close": ["close", "CLOSE"],
    "volume": ["volume", "Volume"],
    "rsi(14)": ["rsi", "RSI ( 14 )", "rsi(period=14)"],
    "macd_signal(12, 26, 8)": ["macd_signal(12, 26, 8)", "macd_signal(signal=8)"],
    "bb_upper(20, 2)": ["bollinger", "bb_upper(20)", "bb_upper"],
    "vwap": ["vwap", "vwap()"],
}
TELLING = st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1.0, 2.0, -2.0, 0.1, 1e308, -1e308, 5e-324])
ROWS = st.fixed_dictionaries(dict.fromkeys(COLUMNS, st.one_of(st.floats(-100, 100), TELLING)))
NUMBERS = st.recursive(
    st.one_of(st.sampled_from([0.0, 1.0, 2.0, 0.1, 3e307]), st.floats(0, 1e6), st.sampled_from([*COLUMNS])),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from([*COMPUTE]), inner, inner), st.tuples(st.just("negative"), inner)
    ),
    max_leaves=6,
)
KNOWN_AND_UNKNOWN = st.sampled_from([("<", 1.0, 2.0), ("<", 2.0, 1.0), ("<", ("/", 1.0, 0.0), 1.0)])
CONDITIONS = st.recursive(
    st.one_of(KNOWN_AND_UNKNOWN, st.tuples(st.sampled_from([*COMPARE]), NUMBERS, NUMBERS)),
    lambda inner: st.one_of(st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)),
    max_leaves=8,
)


def rendered(tree, draw, least=0):
    """The text of a tree, with the parentheses that it needs and here and there some that it does not."""
    if not isinstance(tree, tuple):
        return draw(st.sampled_from(COLUMNS[tree])) if isinstance(tree, str) else repr(tree)
    name, *operands = tree
    tight = TIGHTNESS[name]
    blank = draw(st.sampled_from([" ", "  ", "\n"]))
    if len(operands) == 1:
        text = f"{'-' if name == 'negative' else 'not'}{blank}{rendered(operands[0], draw, tight)}"
    else:
        left, right = rendered(operands[0], draw, tight), rendered(operands[1], draw, tight + 1)
        text = f"{left}{blank}{name}{blank}{right}"
    return f"({text})" if tight < least or draw(st.integers(0, 5)) == 0 else text


def meaning(tree, row):
    """The meaning of a tree for one row: a truth value, or a number with the bound of its rounding error."""
    if isinstance(tree, float):
        return (tree, 0.0) if math.isfinite(tree) else None
    if isinstance(tree, str):
        return (row[tree], bound_of(tree, row)) if math.isfinite(row[tree]) else None
    name, *operands = tree
    found = [meaning(operand, row) for operand in operands]
    if name in {"and", "or"}:
        decisive = name == "or"
        return decisive if decisive in found else None if None in found else not decisive
    return None if None in found else meaning_of_known(name, *found)


def bound_of(column, row):
    if column in {"close", "volume"}:
        return 0.0
    scale = 100.0 if column == "rsi(14)" else abs(row["close"])  # the others are prices
    return ROUNDING * max(abs(row[column]), scale if math.isfinite(scale) else 0.0)


def meaning_of_known(name, *operands):
    if name == "not":
        return not operands[0]
    if name == "negative":
        return -operands[0][0], operands[0][1]
    (a, a_bound), (b, b_bound) = operands
    if name in COMPARE:
        return COMPARE[name](a, a if abs(a - b) <= a_bound + b_bound else b)
    with contextlib.suppress(ZeroDivisionError):
        found = COMPUTE[name](a, b)
        bound = {
            "+": lambda: a_bound + b_bound + ROUNDING * max(abs(a), abs(b)),
            "-": lambda: a_bound + b_bound + ROUNDING * max(abs(a), abs(b)),
            "*": lambda: a_bound * abs(b) + b_bound * abs(a) + ROUNDING * abs(found),
            "/": lambda: (a_bound + b_bound * abs(found)) / abs(b) + ROUNDING * abs(found),
        }[name]
        return (found, bound()) if math.isfinite(found) else None
    return None


@pytest.mark.slow
@hypothesis.settings(max_examples=300)
@hypothesis.given(NUMBERS, ROWS, st.data())
def test_a_number_is_to_the_last_digit_what_python_computes(tree, row, data):
    found = meaning(tree, row)
    text = f"{rendered(tree, data.draw)} == {0.0 if found is None else found[0]!r}"
    values = {name: np.array([value]) for name, value in row.items()}
    condition = parse(text)
    assert condition.holds(values, rows=1)[0] == (found is not None)
    assert not parse(f"not {text}").holds(values, rows=1)[0]
    begin = -2 if found is None or not text.rpartition("== ")[2].startswith("-") else -3  # the sign is an operator
    value = run(condition.program[:begin], values, 1).value
    assert np.isnan(value) if found is None else value == found[0]


@pytest.mark.thorough
@hypothesis.settings(max_examples=300)
@hypothesis.given(CONDITIONS, st.lists(ROWS, min_size=1, max_size=4), st.data())
@pytest.mark.slow
def test_a_condition_holds_where_python_says_so(tree, rows, data):
    text = rendered(tree, data.draw)
    hypothesis.assume(len(text) < MAX_CHARACTERS - 10)
    values = {name: np.array([row[name] for row in rows]) for name in COLUMNS}
    expected = [meaning(tree, row) for row in rows]
    assert parse(text).holds(values, len(rows)).tolist() == [one is True for one in expected]
    assert parse(f"not ({text})").holds(values, len(rows)).tolist() == [one is False for one in expected]
