"""The indicators in a text, and the names of their columns."""

import pytest

from stockpulse.errors import InvalidInput
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.selection import MAX_INDICATORS, column_names, select


def chosen(text, **parameters):
    return [(one.indicator.name, one.values) for one in select(text, parameters)]


def columns(text, **parameters):
    return column_names(select(text, parameters))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rsi", [("rsi", {"period": 14})]),
        (" RSI ", [("rsi", {"period": 14})]),
        ("rsi()", [("rsi", {"period": 14})]),
        ("rsi( )", [("rsi", {"period": 14})]),
        ("rsi(7)", [("rsi", {"period": 7})]),
        ("rsi ( 7 )", [("rsi", {"period": 7})]),
        ("rsi(period=7)", [("rsi", {"period": 7})]),
        ("rsi( period = 7.0 )", [("rsi", {"period": 7})]),
        ("rsi(1e1)", [("rsi", {"period": 10})]),
        ("rsi(7),rsi(21)", [("rsi", {"period": 7}), ("rsi", {"period": 21})]),
        ("macd", [("macd", {"fast": 12, "slow": 26, "signal": 9})]),
        ("macd(3,7)", [("macd", {"fast": 3, "slow": 7, "signal": 9})]),
        ("macd(3, signal=2, slow=7)", [("macd", {"fast": 3, "slow": 7, "signal": 2})]),
        ("bollinger(20, 2.5),vwap", [("bollinger", {"period": 20, "deviations": 2.5}), ("vwap", {"extended": False})]),
        ("vwap()", [("vwap", {"extended": False})]),
    ],
)
def test_what_is_chosen(text, expected):
    assert chosen(text) == expected


def test_all_that_there_are():
    assert [name for name, _ in chosen(",".join(CATALOGUE))] == list(CATALOGUE)
    assert columns(",".join(CATALOGUE)) == [output for one in CATALOGUE.values() for output in one.outputs]


def test_parameters_given_beside_hold_for_all_that_have_one_of_the_name():
    assert chosen("sma,rsi(7),vwap,macd", period="30", fast="5") == [
        ("sma", {"period": 30}),
        ("rsi", {"period": 7}),  # its own goes first
        ("vwap", {"extended": False}),
        ("macd", {"fast": 5, "slow": 26, "signal": 9}),
    ]


@pytest.mark.parametrize(
    ("text", "parameters", "field"),
    [
        ("", {}, "type"),
        (" ", {}, "type"),
        ("nope", {}, "type"),
        ("rsi,", {}, "type"),
        (",rsi", {}, "type"),
        ("rsi(7", {}, "type"),
        ("rsi7)", {}, "type"),
        ("rsi((7))", {}, "type"),
        ("rsi(7)(8)", {}, "type"),
        ("rsi(7)sma", {}, "type"),
        ("r\u017fi", {}, "type"),  # its upper case is RSI
        ("sma(macd(1,2),3)", {}, "type"),
        ("rsi\0", {}, "type"),
        (",".join(["sma"] * (MAX_INDICATORS + 1)), {}, "type"),
        ("rsi(0)", {}, "period"),
        ("rsi(period=)", {}, "period"),
        ("rsi(7, 8)", {}, "rsi"),
        ("rsi(7, period=8)", {}, "rsi"),
        ("rsi(=7)", {}, "rsi"),
        ("rsi(Period=7)", {}, "rsi"),
        ("vwap(2)", {}, "extended"),
        ("obv(1)", {}, "obv"),
        ("macd(,7)", {}, "fast"),
        ("macd(30)", {}, "fast"),
        ("rsi", {"period": "0"}, "period"),
        ("rsi", {"period": "nan"}, "period"),
        ("rsi", {"fast": "3"}, "fast"),
        ("rsi", {"x" * 100: "3"}, "x" * 40),
        ("sma,macd", {"slow": "3"}, "fast"),
    ],
)
def test_what_is_not_taken_is_named(text, parameters, field):
    with pytest.raises(InvalidInput) as refused:
        select(text, parameters)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


def test_the_field_may_have_another_name():
    with pytest.raises(InvalidInput) as refused:
        select("nope", {}, "indicators")
    assert refused.value.field == "indicators"


def test_names_of_columns():
    assert columns("rsi") == ["rsi"]
    assert columns("rsi(7)") == ["rsi"]
    assert columns("macd,rsi") == ["macd", "macd_signal", "macd_histogram", "rsi"]
    assert columns("rsi(7),sma,rsi(21)") == ["rsi_7", "sma", "rsi_21"]
    assert columns("macd,macd(3,7,2)") == [
        *("macd_12_26_9", "macd_signal_12_26_9", "macd_histogram_12_26_9"),
        *("macd_3_7_2", "macd_signal_3_7_2", "macd_histogram_3_7_2"),
    ]
    assert columns("bollinger(20,2.5),bollinger")[::5] == ["bb_upper_20_2.5", "bb_upper_20_2"]


@pytest.mark.parametrize(
    "text",
    [
        "rsi(7),rsi(14)",
        "bollinger(20,2.0000001),bollinger(20,2.0000002)",
        "t3(5,0.7),t3(5,0.70000001)",
        ",".join(f"sma({period})" for period in range(1, MAX_INDICATORS + 1)),
    ],
)
def test_different_indicators_have_columns_of_different_names(text):
    names = columns(text)
    assert len(set(names)) == len(names)
