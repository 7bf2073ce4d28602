"""Records as JSON: the records that we write, and how records of other programs are read."""

import json
from datetime import timedelta

import orjson
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from records_data import (
    ANALYTICS,
    ANY_BARS,
    ANY_CORRECTIONS,
    ANY_OHLCV,
    ANY_TICKS,
    BAR,
    NOON,
    NUMBERS,
    OWN_BAR,
    SIGNAL,
    TICK,
    bars,
    bits,
    content,
    kept_text,
    ohlcv,
    places,
    signals,
    ticks,
)

from stockpulse.api.ticks_body import parse_ticks
from stockpulse.journal.codecs import (
    BROKEN,
    OHLCV,
    PLACED,
    RECORDED_BARS,
    RECORDED_CORRECTIONS,
    RECORDED_TICKS,
    json_codec,
)
from stockpulse.journal.codecs.json_codec import JsonCodec
from stockpulse.journal.records import Forget
from stockpulse.market.schemas import TICKS
from stockpulse.market.times import micros

CODEC = JsonCodec()
GOOD = CODEC.encode_ticks(ticks(TICK))[0]
FOREIGN = {"symbol": "AAPL", "ts": "2026-03-02T15:30:00Z", "price": 1.5, "size": 2}
READ = {**dict.fromkeys(RECORDED_TICKS), "symbol": "AAPL", "ts": NOON, "price": 1.5, "size": 2.0}


def foreign(**changes):
    """Decode a trade of another program with these changes."""
    decoded = CODEC.decode([orjson.dumps({**FOREIGN, **changes})])
    (row,) = decoded.ticks.to_dicts()
    return row


# --- what we write -----------------------------------------------------------------------------


def test_a_trade():
    assert GOOD == (
        b'{"type":"trade","symbol":"AAPL","ts":"2026-03-02T15:30:00.123456Z","price":189.72,"size":100.0,'
        b'"provider":"simulated","exchange":"Q","trade_id":"1","conditions":"@,I","tape":"C",'
        b'"received_at":"2026-03-02T15:30:00.130000Z","flags":7}'
    )


def test_a_bar():
    assert CODEC.encode_bars(bars(BAR)) == [
        (
            b'{"type":"bar","symbol":"AAPL","interval":"1m","timestamp":"2026-03-02T15:30:00.000000Z",'
            b'"open":1.5,"high":2.0,"low":1.25,"close":1.75,"volume":100.0,"trade_count":3,"vwap":1.6,'
            b'"provider":"tape","received_at":"2026-03-02T15:31:00.000000Z"}'
        )
    ]


def test_an_end():
    value = CODEC.encode_end("tape", NOON)
    assert json.loads(value) == {"type": "end", "provider": "tape", "received_at": "2026-03-02T15:30:00Z"}
    assert CODEC.decode([value]).ends == [(0, "tape")]


@given(some=ANY_CORRECTIONS)
def test_corrections_come_back_to_the_bit(some):
    decoded = CODEC.decode(CODEC.encode_corrections(some))
    assert bits(content(decoded.corrections, RECORDED_CORRECTIONS)).equals(bits(some))
    assert decoded.corrections["row"].to_list() == list(range(len(some)))


def test_a_correction_of_another_program_may_leave_out_what_is_optional():
    cancel = {"type": "correction", "symbol": "AAPL", "trade_id": 7, "timestamp": 1772465400}
    right = cancel | {"price": 1.5, "volume": 2, "conditions": ["@", "I"], "since": "2026-03-02", "more": 1}
    nameless = {"type": "correction", "symbol": "AAPL", "ts": 1772465400}
    decoded = CODEC.decode([json.dumps(one).encode() for one in (cancel, right, nameless)])
    known = content(decoded.corrections, RECORDED_CORRECTIONS)
    assert known.select("trade_id", "ts", "price", "size", "conditions").rows() == [
        ("7", NOON, None, None, None),
        ("7", NOON, 1.5, 2.0, "@,I"),
    ]
    assert known["since"].to_list() == [None, NOON.replace(hour=0, minute=0)]
    assert decoded.corrections["problem"].to_list() == [None, None, "trade_id: missing"]


def test_a_forget():
    forget = Forget("AAPL", "tape", micros(NOON), micros(NOON) + 1_500_000)
    value = CODEC.encode_forget(forget, NOON)
    assert json.loads(value) == {
        "type": "forget",
        "symbol": "AAPL",
        "provider": "tape",
        "received_at": "2026-03-02T15:30:00Z",
        "start": "2026-03-02T15:30:00Z",
        "end": "2026-03-02T15:30:01.500000Z",
    }
    for one in (forget, Forget("AAPL", None), Forget(None, "tape")):
        assert CODEC.decode([None, CODEC.encode_forget(one, NOON)]).forgets == [(1, one)]


def test_a_forget_of_another_program_may_write_its_times_as_ticks_do():
    value = {"type": "forget", "symbol": "AAPL", "start": 1772465400, "end": "2026-03-02T16:30:00+01:00"}
    assert CODEC.decode([json.dumps(value | {"end": "2026-03-02"}).encode()]).forgets == []
    value |= {"end": "2026-03-02T16:30:01+01:00"}
    [(_, forget)] = CODEC.decode([json.dumps(value).encode()]).forgets
    assert forget == Forget("AAPL", None, micros(NOON), micros(NOON) + 1_000_000)


def test_what_is_derived():
    assert CODEC.encode_ohlcv(ohlcv(OWN_BAR)) == [
        (
            b'{"symbol":"AAPL","interval":"1m","timestamp":"2026-03-02T15:30:00.000000Z",'
            b'"open":1.5,"high":2.0,"low":1.25,"close":1.75,"volume":100.0,"trade_count":3,"vwap":1.6,'
            b'"revision":5,"final":true,"source":"live"}'
        )
    ]
    assert CODEC.encode_signals(signals(SIGNAL)) == [
        (
            b'{"symbol":"AAPL","interval":"1m","timestamp":"2026-03-02T15:30:00.000000Z",'
            b'"rule":"golden_cross","signal":"BUY","price":189.72,"revision":5}'
        )
    ]


def test_analytics_say_null_for_what_is_no_number():
    values = [json.loads(value)["values"] for value in CODEC.encode_analytics(ANALYTICS)]
    assert values == [{"sma_20": 0.1 + 0.2, "rsi_14": 50.0}] + [{"sma_20": None, "rsi_14": None}] * 2
    without = CODEC.encode_analytics(ANALYTICS.drop("sma_20", "rsi_14"))
    assert [json.loads(value)["revision"] for value in without] == [5, 6, 7]


def test_what_is_null_in_the_whole_batch_is_left_out():
    without = {**TICK, "exchange": None, "trade_id": None}
    (alone,) = CODEC.encode_ticks(ticks(without))
    assert not {"exchange", "trade_id"} & json.loads(alone).keys()
    assert json.loads(CODEC.encode_ticks(ticks(without, TICK))[0])["exchange"] is None


def test_nothing():
    assert CODEC.encode_ticks(ticks()) == CODEC.encode_bars(bars()) == CODEC.encode_analytics(ANALYTICS[:0]) == []
    decoded = CODEC.decode([])
    assert decoded.ticks.schema == {**RECORDED_TICKS, **PLACED}
    assert decoded.bars.schema == {**RECORDED_BARS, **PLACED}
    assert decoded.broken.schema == BROKEN
    assert places(decoded) == []
    assert CODEC.decode_ohlcv([]).schema == OHLCV


# --- what we wrote, read -------------------------------------------------------------------------


@given(ANY_TICKS, ANY_BARS)
def test_what_goes_out_comes_back_to_the_bit(some_ticks, some_bars):
    decoded = CODEC.decode([*CODEC.encode_ticks(some_ticks), *CODEC.encode_bars(some_bars)])
    assert bits(content(decoded.ticks, RECORDED_TICKS)).equals(bits(some_ticks))
    assert bits(content(decoded.bars, RECORDED_BARS)).equals(bits(some_bars))
    assert decoded.ticks.schema == {**RECORDED_TICKS, **PLACED}
    assert [*decoded.ticks["row"], *decoded.bars["row"]] == list(range(len(some_ticks) + len(some_bars)))


@given(ANY_OHLCV)
def test_so_do_our_bars(frame):
    decoded = CODEC.decode_ohlcv(CODEC.encode_ohlcv(frame))
    assert decoded.schema == OHLCV
    assert bits(decoded).equals(bits(frame))


@given(st.lists(NUMBERS, min_size=1))
@example([1e-320, 5e-324, 1e22, 0.1 + 0.2, 1.7976931348623157e308, -0.0, 1e15, 1e16, 3.0, 2.0**63, 1e99, 1e100])
def test_numbers_come_back_to_the_bit(numbers):
    frame = ticks(*({**TICK, "price": number} for number in numbers))
    assert bits(CODEC.decode(CODEC.encode_ticks(frame)).ticks.select("price")).equals(bits(frame.select("price")))


@given(st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?\Z"))
@example("0.1000000000000000055511151231257827")
@example("9007199254740993")
@example("9007199254740993.0")
@example("123456789012345678.12345678901234567")
@example("2.2250738585072011e-308")
@example("-0")
def test_a_number_is_the_nearest_one_however_it_is_spelled(symbol_names):
    """Numbers are read as `float` reads them, in columns and one by one."""
    value = GOOD.replace(b"189.72", symbol_names.encode())
    by_columns, alone = CODEC.decode([value]).ticks["price"], CODEC.decode([b" " + value]).ticks["price"]
    assert by_columns.to_list() == alone.to_list() == [float(symbol_names)]


@given(ANY_TICKS, ANY_BARS)
def test_both_ways_of_reading_say_the_same(some_ticks, some_bars):
    values = [*CODEC.encode_ticks(some_ticks), *CODEC.encode_bars(some_bars)]
    fast, careful = CODEC.decode(values), CODEC.decode([b" " + value for value in values])
    assert bits(fast.ticks).equals(bits(careful.ticks))
    assert bits(fast.bars).equals(bits(careful.bars))


def test_what_is_spelled_as_ours_is_read_together(monkeypatch):
    """Other values are read one by one with orjson, which this test removes."""
    monkeypatch.setattr(json_codec.orjson, "loads", None)
    values = [
        *CODEC.encode_ticks(ticks(TICK, {**TICK, "trade_id": None})),
        *CODEC.encode_ticks(ticks({**TICK, "conditions": None, "flags": None, "price": 1e22, "symbol": 'A"\\'})),
        *CODEC.encode_bars(bars(BAR, {**BAR, "vwap": None, "trade_count": None})),
    ]
    decoded = CODEC.decode(values)
    assert (decoded.ticks.height, decoded.bars.height) == (3, 2)
    assert CODEC.decode_ohlcv(CODEC.encode_ohlcv(ohlcv(OWN_BAR))).height == 1
    with pytest.raises(TypeError):
        CODEC.decode([*values, b'{"price":1}'])


# --- what others write -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({}, {}),
        ({"type": "trade"}, {}),
        ({"type": None}, {}),
        ({"ts": 1772465400}, {}),
        ({"ts": 1772465400.0}, {}),
        ({"ts": 1772465400_000}, {}),
        ({"ts": 1772465400_000_000}, {}),
        ({"ts": 1772465400_000_000_000}, {}),
        ({"ts": "1772465400"}, {}),
        ({"ts": "2026-03-02T10:30:00-05:00"}, {}),
        ({"ts": None, "timestamp": "2026-03-02T15:30:00Z"}, {}),
        ({"ts": None, "event_time": "2026-03-02T15:30:00Z"}, {}),
        ({"ts": None, "time": "2026-03-02T15:30:00Z"}, {}),
        ({"size": None, "volume": 2}, {}),
        ({"price": "1.5", "size": "2"}, {}),
        ({"price": "15e-1"}, {}),
        ({"trade_id": 9007199254740993}, {"trade_id": "9007199254740993"}),
        ({"conditions": ["@", "I"]}, {"conditions": "@,I"}),
        ({"conditions": [], "exchange": ""}, {}),
        ({"flags": "3"}, {"flags": 3}),
        ({"flags": 3.0}, {"flags": 3}),
        ({"received_at": 1772465400}, {"received_at": NOON}),
        ({"PRICE": 9, "Symbol": "X", "extra": {"deep": [1, {"er": None}]}}, {}),
        ({"symbol": "AAPL\n"}, {"symbol": "AAPL\n"}),
    ],
)
def test_a_trade_of_another_program(changes, read):
    assert foreign(**changes) == {**READ, **read, "row": 0, "problem": None, "raw": None}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"symbol": 7}, "symbol: not text: 7"),
        ({"symbol": "A\0"}, "symbol: has a null byte: 'A\\x00'"),
        ({"price": "abc"}, "price: not a number: 'abc'"),
        ({"price": True}, "price: not a number: True"),
        ({"price": None}, "price: missing"),
        ({"ts": "yesterday"}, "ts: not a time in the years 1970 to 2200: 'yesterday'"),
        ({"provider": ["x"]}, "provider: not text: ['x']"),
        ({"flags": 1.5}, "flags: not a whole number: 1.5"),
        ({"flags": 2**63}, f"flags: not a whole number: {2**63}"),
        ({"flags": True}, "flags: not a whole number: True"),
        ({"flags": "1e3"}, "flags: not a whole number: '1e3'"),
        ({"received_at": {}}, "received_at: not a time in the years 1970 to 2200: {}"),
        ({"symbol": None, "size": "x"}, "symbol: missing; size: not a number: 'x'"),
    ],
)
def test_a_bad_field_is_a_problem_of_its_row(changes, problem):
    sent = orjson.dumps({**FOREIGN, **changes})
    decoded = CODEC.decode([GOOD, sent, GOOD])
    assert decoded.broken.is_empty()
    assert decoded.ticks["problem"].to_list() == [None, problem, None]
    assert decoded.ticks["raw"].to_list() == [None, sent.decode(), None]
    assert content(decoded.ticks, RECORDED_TICKS).equals(ticks(TICK, TICK))


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("conditions", b'["@"]'),
        ("conditions", b"12"),
        ("symbol", b"7203"),
        ("provider", b"true"),
        ("trade_id", b"1.5"),
        ("price", b'"189.72"'),
        ("flags", b"7.5"),
        ("flags", b"12345678901234567890"),
        ("ts", b"1772465400"),
        ("ts", b'"2026-02-30T15:30:00.123456Z"'),
        ("ts", b'"2026-03-02T15:30:00.123456"'),
        ("ts", b'"9999-03-02T15:30:00.123456Z"'),
    ],
)
def test_what_nearly_looks_like_ours_is_not_misread(key, sent):
    """The column reader alone would take text for numbers, and numbers for text."""
    spelled = {name: orjson.dumps(value) for name, value in orjson.loads(GOOD).items()} | {key: sent}
    value = b"{" + b",".join(b'"%s":%s' % (name.encode(), text) for name, text in spelled.items()) + b"}"
    together, alone = CODEC.decode([GOOD, value, GOOD]).ticks, CODEC.decode([b" " + value]).ticks
    assert together.drop("row", "raw").row(1) == alone.drop("row", "raw").row(0)


def test_of_a_key_that_stands_twice_the_last_one_counts():
    value = GOOD[:-1] + b',"price":1.0}'
    assert CODEC.decode([GOOD, value]).ticks["price"].to_list() == [189.72, 1.0]


def test_a_bar_of_another_program():
    sent = {"type": "bar", **{name: BAR[name] for name in ("symbol", "interval", "open", "high", "low", "close")}}
    decoded = CODEC.decode(
        [
            orjson.dumps({**sent, "time": 1772465400, "volume": "100"}),
            orjson.dumps({**sent, "ts": "2026-03-02T15:30:00Z"}),
        ]
    )
    assert decoded.ticks.is_empty()
    assert decoded.bars["problem"].to_list() == [None, "volume: missing"]
    expected = {**BAR, **dict.fromkeys(("trade_count", "vwap", "provider", "received_at"))}
    assert content(decoded.bars, RECORDED_BARS).equals(bars(expected))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["2026-03-02T15:30:00Z", "1.5", "AAPL", 1772465400]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KEYS = st.sampled_from([*TICKS, "timestamp", "event_time", "time", "volume"]) | st.text()


@pytest.mark.thorough
@pytest.mark.slow
@example([{"tape": [], "conditions": {}}])
@given(st.lists(st.dictionaries(KEYS, VALUES), min_size=1))
def test_the_rules_are_those_of_post_ticks(sent):
    only_ours = {"type", "provider", "received_at", "flags"}
    values = [json.dumps({key: one[key] for key in one.keys() - only_ours}).encode() for one in sent]
    posted = parse_ticks(b"\n".join(values), "application/x-ndjson")
    decoded = CODEC.decode(values).ticks
    # A record has its fields in another order, and so its reasons.
    reasons = pl.col("problem").str.split("; ").list.sort()
    expected = posted[decoded["row"].to_list()].with_columns(reasons)
    assert expected.equals(decoded.select(posted.columns).with_columns(reasons))


# --- values that are no records ------------------------------------------------------------------

DEEP = 100_000


def _forget(**fields):
    return json.dumps({"type": "forget", "start": "2026-01-01", "end": "2026-01-02"} | fields).encode()


POISON = {
    "tombstone": (None, "no value: a tombstone"),
    "nothing": (b"", "not JSON: "),
    "blanks": (b" \r ", "not JSON: "),
    "half": (GOOD[:-1], "not JSON: "),
    "two": (GOOD + b"\n" + GOOD, "not JSON: "),
    "two and none": (GOOD + GOOD, "not JSON: "),
    "not UTF-8": (GOOD.replace(b"AAPL", b"\xff\xfe"), "not JSON: "),
    "utf-16": (GOOD.decode().encode("utf-16"), "not JSON: "),
    "null byte": (GOOD.replace(b"AAPL", b"A\0"), "not JSON: "),
    "line feed": (GOOD.replace(b"AAPL", b"A\nB"), "not JSON: "),
    "half a pair": (GOOD.replace(b"AAPL", b"\\ud800"), "not JSON: "),
    "deep": (b'{"symbol":' + b"[" * DEEP + b"]" * DEEP + b"}", "more than 10,000 values inside"),
    "less deep": (b'{"symbol":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "not JSON: "),
    "many": (b"[" + b"0," * 200_000 + b"0]", "more than 10,000 values inside"),
    "not a number": (GOOD.replace(b"189.72", b"NaN"), "not JSON: "),
    "infinity": (GOOD.replace(b"189.72", b"-Infinity"), "not JSON: "),
    "beyond floats": (GOOD.replace(b"189.72", b"1e999"), "not JSON: "),
    "huge integer": (GOOD.replace(b"189.72", b"9" * 5_000), "not JSON: "),
    "list": (b"[1]", "not an object: [1]"),
    "text": (b'"x"', "not an object: 'x'"),
    "null": (b"null", "not an object: None"),
    "number": (b"5", "not an object: 5"),
    "unknown": (b'{"type":"quote"}', "type: takes trade, bar, correction, end, forget; got 'quote'"),
    "type of another type": (b'{"type":["trade"]}', "type: takes trade, bar, correction, end, forget; got ['trade']"),
    "end of nobody": (b'{"type":"end"}', "provider: an end takes the name of one; got None"),
    "end of a fake": (b'{"type":"end","provider":"A\\u0000"}', "provider: an end takes the name of one; got 'A\\x00'"),
    "forget of nothing": (b'{"type":"forget"}', "symbol, provider: a forget takes one of them at least"),
    "forget of a fake": (_forget(symbol="a b"), "symbol: a forget takes the name of one, or null; got 'a b'"),
    "forget of a provider": (_forget(provider=5), "provider: a forget takes the name of one, or null; got 5"),
    "forget without an end": (_forget(symbol="A", end=None), "end: a forget takes a time; got None"),
    "forget of no time": (_forget(symbol="A", end="2026-01-01"), "end: comes after start"),
    "too long": (b'{"symbol":"' + b"x" * (1 << 20) + b'"}', "longer than 1,048,576 bytes: 1,048,589"),
    "too long, as ours": (GOOD.replace(b"AAPL", b"A" * (1 << 20)), "longer than 1,048,576 bytes: "),
}


@pytest.mark.parametrize("name", POISON)
def test_what_is_no_record_says_why(name):
    value, reason = POISON[name]
    decoded = CODEC.decode([GOOD, value, GOOD])
    assert content(decoded.ticks, RECORDED_TICKS).equals(ticks(TICK, TICK))
    assert decoded.ticks["row"].to_list() == [0, 2]
    ((row, why, raw),) = decoded.broken.rows()
    assert (row, why[: len(reason)]) == (1, reason)
    assert len(why) < 300
    assert raw == kept_text(value)


def test_all_of_it_together_harms_nobody():
    values = [value for bad, _ in POISON.values() for value in (bad, GOOD)]
    decoded = CODEC.decode(values)
    assert content(decoded.ticks, RECORDED_TICKS).equals(ticks(*[TICK] * len(POISON)))
    assert decoded.broken["row"].to_list() == list(range(0, len(values), 2))


def test_a_huge_number_is_one_all_the_same():
    decoded = CODEC.decode([GOOD.replace(b"189.72", b"9" * 300), GOOD])
    assert decoded.ticks["price"].to_list() == [float("9" * 300), 189.72]


@pytest.mark.thorough
@pytest.mark.slow
@given(st.lists(st.binary() | st.none() | st.dictionaries(KEYS, VALUES).map(lambda one: json.dumps(one).encode())))
def test_any_values_at_all(values):
    mixed = [one for value in values for one in (value, GOOD)]
    decoded = CODEC.decode(mixed)
    assert places(decoded) == list(range(len(mixed)))
    ours = decoded.ticks.filter(pl.col("row") % 2 == 1)
    assert content(ours, RECORDED_TICKS).equals(ticks(*[TICK] * len(values)))
    assert "\0" not in "".join([*decoded.broken["raw"], *decoded.broken["reason"], *decoded.ticks["raw"].drop_nulls()])


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_damage_to_ours(damage):
    value = bytearray(GOOD)
    for at, byte in damage:
        value[at % len(value)] = byte
    together, alone = CODEC.decode([GOOD, bytes(value), GOOD]), CODEC.decode([bytes(value) + b" "])
    assert places(together) == [0, 1, 2]
    assert content(together.ticks.filter(pl.col("row") != 1), RECORDED_TICKS).equals(ticks(TICK, TICK))
    read = together.ticks.filter(pl.col("row") == 1).drop("row", "raw")
    assert bits(read).equals(bits(alone.ticks.drop("row", "raw")))


def test_the_places_are_kept_in_a_mixture():
    bar, own = CODEC.encode_bars(bars(BAR))[0], orjson.dumps(FOREIGN)
    decoded = CODEC.decode([own, GOOD, bar, None, CODEC.encode_end("tape", NOON), own, b" " + bar, GOOD])
    assert decoded.ticks["row"].to_list() == [0, 1, 5, 7]
    assert decoded.ticks["price"].to_list() == [1.5, 189.72, 1.5, 189.72]
    assert decoded.bars["row"].to_list() == [2, 6]
    assert (decoded.ends, decoded.broken["row"].to_list()) == ([(4, "tape")], [3])


def test_of_our_bars_what_is_none_is_left_out():
    first, second = CODEC.encode_ohlcv(ohlcv(OWN_BAR, {**OWN_BAR, "timestamp": NOON + timedelta(minutes=1)}))
    values = [first, None, b"\xff", b"{}", b"[]", second[:-1], b" " + second]
    assert CODEC.decode_ohlcv(values)["timestamp"].to_list() == [NOON, NOON + timedelta(minutes=1)]
