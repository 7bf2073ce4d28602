"""Functions of earlier bars: their meaning, and equal results of a stream and of one calculation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.errors import InvalidInput
from stockpulse.indicators.algebra import INPUTS
from stockpulse.rules import ExpressionBundle, parse
from stockpulse.rules.parser import FUNCTIONS, MAX_BARS_AGO, MAX_HISTORIES

NAN = math.nan
_loops = {}


def plain(loop):
    """Return the loop as plain Python."""
    if loop.name not in _loops:
        world = {}
        exec(loop.text, world)
        _loops[loop.name] = world["loop"]
    return _loops[loop.name]


def bars_of(close, **others):
    close = np.array(close, float)
    bars = dict.fromkeys(INPUTS, close)
    return bars | {name: np.array(values, float) for name, values in others.items()}


def values_of(bundle, bars):
    """Return the values of one calculation over all bars, by label."""
    count, zero = len(bars["close"]), np.zeros(1, np.int64)
    out = bundle.calculate(plain, bundle.fresh(1), zero, zero, zero + count, bars)
    return bundle.named(bars, out.T)


def holds(text, close, **others):
    condition, bars = parse(text), bars_of(close, **others)
    return condition.holds(values_of(ExpressionBundle([condition]), bars), len(bars["close"])).tolist()


@pytest.mark.parametrize(
    ("text", "close", "expected"),
    [
        ("close > close[1]", [1, 2, 2, 3, 1], [0, 1, 0, 1, 0]),
        ("close[1] > close[2]", [1, 2, 2, 3, 1], [0, 0, 1, 0, 1]),
        ("close[1][1] == close[2]", [1, 2, 2, 3, 1], [0, 0, 1, 1, 1]),
        ("not (close > close[1])", [1, 2, 2, 3, 1], [0, 0, 1, 0, 1]),  # unknown on the first bar
        ("(close - 1)[1] == 1", [1, 2, 2, 3, 1], [0, 0, 1, 1, 0]),
        ("(close > 1)[1]", [1, 2, 2, 3, 1], [0, 0, 1, 1, 1]),
        ("not (close > 1)[1]", [1, 2, 2, 3, 1], [0, 1, 0, 0, 0]),
        ("(1 < 2)[1]", [1, 2, 3], [0, 1, 1]),
        ("-close[1] == -1", [1, 2, 3], [0, 1, 0]),
        ("crosses_above(close, 2)", [1, 2, 3, 3, 1, 3], [0, 0, 1, 0, 0, 1]),
        ("crosses_below(close, 2)", [3, 2, 1, 1, 3, 1], [0, 0, 1, 0, 0, 1]),
        ("crosses_above(close, 2)", [3, 3], [0, 0]),  # the first bar has no bar before it
        ("crosses_above(close, close[1])", [1, 2, 3, 2, 4], [0, 0, 0, 0, 1]),
        ("CROSSES_ABOVE(close, 2)[1]", [1, 3, 3], [0, 0, 1]),
        ("change_pct(1) > 49", [2, 3, 4, 6], [0, 1, 0, 1]),
        ("change_pct(2) == 100", [2, 3, 4, 6], [0, 0, 1, 1]),
        ("highest(close, 3) == 5", [5, 1, 2, 3, 5], [0, 0, 1, 0, 1]),
        ("lowest(close, 2) == 1", [5, 1, 2, 3, 1], [0, 1, 1, 0, 1]),
        ("close > highest(close, 2)[1]", [1, 2, 3, 3, 4], [0, 0, 1, 0, 1]),
        ("highest(close - close[1], 2) == 1", [1, 2, 3, 3, 3], [0, 0, 1, 1, 0]),
        ("close >= highest(close, 1)", [1, 2], [1, 1]),
        ("highest(3, 2) == 3", [1, 2, 3], [0, 1, 1]),
        ("sma(2)[1] == 1.5", [1, 2, 3, 4], [0, 0, 1, 0]),
        ("crosses_above(close, sma(2))", [3, 2, 3, 4, 1], [0, 0, 1, 0, 0]),
    ],
)
def test_meaning(text, close, expected):
    assert holds(text, close) == [bool(one) for one in expected]


def test_a_bar_whose_value_is_unknown_counts_as_a_bar():
    # close / volume is unknown on the second bar.
    volume = [1, 0, 1, 1, 1]
    assert holds("(close / volume)[1] > 0", [1, 2, 3, 4, 5], volume=volume) == [False, True, False, True, True]
    assert holds("highest(close / volume, 2) > 0", [1, 2, 3, 4, 5], volume=volume) == [False] * 3 + [True] * 2


def test_equal_histories_are_calculated_once():
    bundle = ExpressionBundle([parse("close > close[1] and close[1] > CLOSE [ 1 ][1]"), parse("change_pct(1) > 1")])
    assert len(bundle.instances) == 2


def test_how_many_bars_are_needed():
    def needed(text):
        return ExpressionBundle([parse(text)]).bars_needed

    assert needed("close > 1") == 1
    assert needed("close > close[3]") == 4
    assert needed("close[3][2] > 1") == 6
    assert needed("crosses_above(highest(high, 20), 5)") == 22
    assert needed("sma(20)[5] > 1") == needed("sma(20) > 1") + 5
    assert needed("obv[1] > 1") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("close[0] > 1", "found '0', expected a number of bars from 1 to 500"),
        ("close[501] > 1", "found '501', expected a number of bars from 1 to 500"),
        ("close[1.5] > 1", "found '1.5', expected a number of bars"),
        ("close[-1] > 1", "found '-', expected a number of bars"),
        ("close[close] > 1", "found 'close', expected a number of bars"),
        ("close[1 > 1", "found '>', expected ']'"),
        ("2[1] > 1", "found '['"),
        ("highest(close) > 1", "found ')', expected ',' and a number of bars"),
        ("highest(close, 5001) > 1", "found '5001', expected a number of bars from 1 to 5000"),
        ("highest(close > 1, 3) > 1", "found a condition, expected a number in highest"),
        ("lowest > 1", "found '>', expected '(' after lowest"),
        ("crosses_above(close > 1, 2)", "found a condition, expected a number in crosses_above"),
        ("crosses_above(close) > 1", "expected ',' and a second value"),
        ("crosses_above(close, 1) > 1", "found '>' after a condition"),
        ("change_pct() > 1", "found ')', expected a number of bars"),
        ("change_pct(close, 1) > 1", "found 'close', expected a number of bars"),
        ("change_pct(1)", "found a number alone"),
        ("highst(close, 2) > 1", "did you mean highest"),
        (" and ".join(f"close[{n}] > 1" for n in range(1, MAX_HISTORIES + 2)), "found more than 32 functions"),
        ("highest(" * 60 + "close" + ", 2)" * 60 + " > 1", "nested 51 deep"),
    ],
)
def test_errors(text, message):
    with pytest.raises(InvalidInput) as refused:
        parse(text)
    assert message in str(refused.value)


def test_a_label_parses_to_the_same_history():
    conditions = ["close[3] > 1", "highest(sma(5) - 2 * (low - -1), 4)[2] > 1", "(not (close > 1) or (high < 2))[1]"]
    for text in conditions:
        (*_, history) = parse(text).histories
        whole = history.label if history.kind == "a condition" else f"{history.label} > 1"
        assert parse(whole).histories[-1] == history


def test_the_longest_way_back():
    close = np.arange(MAX_BARS_AGO + 3.0)
    assert np.flatnonzero(holds(f"close[{MAX_BARS_AGO}] >= 0", close)).tolist() == [500, 501, 502]


TEXTS = [
    "crosses_above(close, sma(3)) or close > highest(high, 4)[1]",
    "change_pct(2) > 1 and (rsi(3) > 50)[2]",
    "lowest(close - ema(3), 5) < 0 or not crosses_below(macd(2, 3, 2), 0)",
    "(close / volume)[1] > highest(close / volume, 3)[1][2]",
    "highest(lowest(close, 2)[1], 3) == close",
]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=30),
    st.lists(st.integers(1, 5), min_size=30, max_size=30),
    st.integers(0, 1),
)
def test_a_stream_gives_what_one_calculation_gives(rows, pieces, hold):
    """Bit for bit, in pieces of any length, with the last bar held back and previewed."""
    close, volume = np.array(rows, float).T
    bars = bars_of(close / 10, volume=volume)
    conditions = [parse(text) for text in TEXTS]
    bundle, count, zero = ExpressionBundle(conditions), len(rows), np.zeros(1, np.int64)
    whole = bundle.calculate(plain, bundle.fresh(1), zero, zero, zero + count, bars)
    states, found, at = bundle.fresh(1), np.empty_like(whole), 0
    for piece in pieces:
        end = min(at + piece, count)
        if end - at <= hold < 1 or at >= count:
            break
        some = {name: np.ascontiguousarray(values[at:end]) for name, values in bars.items()}
        out = bundle.calculate(plain, states, zero, zero, zero + (end - at), some, hold=hold)
        found[:, at:end] = out
        at = end - hold if end < count else count
    assert at < count or np.array_equal(found, whole, equal_nan=True)
    values = bundle.named(bars, whole.T)
    assert [len(condition.holds(values, count)) for condition in conditions] == [count] * len(TEXTS)


def test_functions_have_names_of_their_own():
    for name in FUNCTIONS:
        with pytest.raises(InvalidInput):
            parse(f"{name} > 1")
