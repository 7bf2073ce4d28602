import io
import json
import re
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import orjson
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stockpulse.api.limits import MAX_ROWS
from stockpulse.api.ticks_body import parse_ticks
from stockpulse.errors import InvalidInput, TooLarge
from stockpulse.market.rows import PARSED_TICKS
from stockpulse.market.schemas import TICKS

JSON, LINES, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"
NOON = datetime(2026, 2, 27, 12, 5, tzinfo=UTC)
TICK = {
    "symbol": "AAPL",
    "ts": "2026-02-27T12:05:00Z",
    "price": 189.72,
    "size": 8341,
    "exchange": "V",
    "trade_id": "t-1",
    "conditions": ["@", "I"],
    "tape": "C",
}
READ = {**TICK, "ts": NOON, "size": 8341.0, "conditions": "@,I", "problem": None, "raw": None}


def parse(*rows):
    frame = parse_ticks(orjson.dumps(rows), JSON)
    assert frame.schema == PARSED_TICKS
    assert frame.equals(parse_ticks(b"\n".join(map(orjson.dumps, rows)), LINES))
    return frame.to_dicts()


def parse_one(**changes):
    (row,) = parse({**TICK, **changes})
    return row


def arrow(frame, kind="stream", **options):
    buffer = io.BytesIO()
    (frame.write_ipc_stream if kind == "stream" else frame.write_ipc)(buffer, **options)
    return buffer.getvalue()


# --- accepted bodies ---------------------------------------------------------------------------


def test_a_tick():
    assert parse(TICK, TICK) == [READ, READ]
    assert parse_ticks(orjson.dumps(TICK), "Application/JSON; charset=utf-8").to_dicts() == [READ]
    assert parse_ticks(orjson.dumps([TICK]), "").to_dicts() == [READ]


def test_only_the_first_four_are_required():
    bare = {name: TICK[name] for name in ("symbol", "ts", "price", "size")}
    assert parse(bare) == [{**READ, "exchange": None, "trade_id": None, "conditions": None, "tape": None}]
    assert parse({**bare, "exchange": "", "trade_id": "", "conditions": []}) == parse(bare)


@pytest.mark.parametrize("alias", ["timestamp", "event_time", "time"])
def test_other_names(alias):
    tick = {"symbol": "AAPL", alias: TICK["ts"], "price": 1, "volume": 2, "unknown": {"key": [1]}}
    assert parse(tick, TICK)[0] | {"price": 1.0} == parse(tick)[0]
    assert (parse(tick)[0]["ts"], parse(tick)[0]["size"], parse(tick)[0]["problem"]) == (NOON, 2.0, None)


@pytest.mark.parametrize(
    ("ts", "micros"),
    [
        ("2026-02-27T12:05:00.123456789Z", 123_456),
        ("2026-02-27T14:05:00.5+02:00", 500_000),
        ("2026-02-27T12:05:00", 0),
        ("2026-02-27t12:05:00z", 0),
        ("2026-02-27 12:05:00 00:00", 0),
        (1772193900, 0),
        (1772193900.25, 250_000),
        (1772193900.123456, 123_456),
        (1772193900123, 123_000),
        (1772193900123456, 123_456),
        (1772193900123456789, 123_456),
        ("1772193900.5", 500_000),
    ],
)
def test_times(ts, micros):
    expected = NOON + timedelta(microseconds=micros)
    assert parse_one(ts=ts)["ts"] == expected
    assert [row["ts"] for row in parse({**TICK, "ts": ts}, TICK, {**TICK, "ts": 1772193900})] == [
        expected,
        NOON,
        NOON,
    ]


@pytest.mark.parametrize("trade_id", [2**63 - 1, 2**64 - 1, 9007199254740993, -5, "9007199254740993", "é"])
def test_trade_ids_are_kept_exactly(trade_id):
    assert parse_one(trade_id=trade_id)["trade_id"] == str(trade_id)
    mixed = parse({**TICK, "trade_id": trade_id}, TICK, {**TICK, "trade_id": 7})
    assert [row["trade_id"] for row in mixed] == [str(trade_id), "t-1", "7"]


@pytest.mark.parametrize(("sent", "price"), [("189.7", 189.7), ("1e3", 1000.0), (2, 2.0), (-1.5, -1.5), ("+.5", 0.5)])
def test_numbers(sent, price):
    assert parse_one(price=sent)["price"] == price
    assert parse({**TICK, "price": sent}, TICK)[0]["price"] == price


@pytest.mark.parametrize(("sent", "conditions"), [("@", "@"), ("@,I", "@,I"), (["@"], "@"), ("", None), (None, None)])
def test_conditions(sent, conditions):
    assert parse_one(conditions=sent)["conditions"] == conditions


def test_numbers_of_a_column_do_not_change_each_other():
    seconds, nanos = 1772193900.1234567, 1772193900123456789
    alone = {ts: parse_one(ts=ts)["ts"] for ts in (seconds, nanos, "2026-02-27")}
    assert [row["ts"] for row in parse(*({**TICK, "ts": ts} for ts in alone))] == list(alone.values())
    assert [row["ts"] for row in parse({**TICK, "ts": seconds}, {**TICK, "ts": nanos})] == list(alone.values())[:2]


# --- problems of a row -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"symbol": None}, "symbol: missing"),
        ({"symbol": ""}, "symbol: missing"),
        ({"symbol": 7}, "symbol: not text: 7"),
        ({"symbol": "A\0"}, "symbol: has a null byte: 'A\\x00'"),
        ({"exchange": ["V"]}, "exchange: not text: ['V']"),
        ({"exchange": "V" * 257}, f"exchange: longer than 256 characters: '{'V' * 47}...{'V' * 48}'"),
        ({"ts": None}, "ts: missing"),
        ({"ts": "yesterday"}, "ts: not a time in the years 1970 to 2200: 'yesterday'"),
        ({"ts": -1}, "ts: not a time in the years 1970 to 2200: -1"),
        ({"ts": 2**64 - 1}, f"ts: not a time in the years 1970 to 2200: {2**64 - 1}"),
        ({"ts": True}, "ts: not a time in the years 1970 to 2200: True"),
        ({"ts": "0001-01-01T00:00:00Z"}, "ts: not a time in the years 1970 to 2200: '0001-01-01T00:00:00Z'"),
        ({"price": None}, "price: missing"),
        ({"price": "abc"}, "price: not a number: 'abc'"),
        ({"price": "NaN"}, "price: not a number: 'NaN'"),
        ({"price": "1e999"}, "price: not a number: '1e999'"),
        ({"price": "1_0"}, "price: not a number: '1_0'"),
        ({"price": True}, "price: not a number: True"),
        ({"size": {}}, "size: not a number: {}"),
        ({"trade_id": 1.5}, "trade_id: not text: 1.5"),
        ({"trade_id": False}, "trade_id: not text: False"),
        ({"conditions": [1]}, "conditions: not a list of text: [1]"),
        ({"ts": None, "price": "x"}, "ts: missing; price: not a number: 'x'"),
    ],
)
def test_a_field_that_cannot_be_read(changes, problem):
    sent = {**TICK, **changes}
    before, row, after = parse(TICK, sent, TICK)
    assert (before, after) == (READ, READ)
    assert row["problem"] == problem
    assert orjson.loads(row["raw"]) == sent
    assert {name: row[name] for name in TICKS if name not in changes} == {
        name: READ[name] for name in TICKS if name not in changes
    }
    assert all(row[name] is None for name in changes)


def test_rows_that_are_no_objects():
    rows = parse(TICK, 5, None, [TICK], "x")
    assert rows[0] == READ
    assert [row["problem"].partition(":")[0] for row in rows[1:]] == ["not an object"] * 4
    assert [row["raw"] for row in rows[1:4]] == ["5", "null", orjson.dumps([TICK]).decode()]


def test_a_broken_line_spoils_itself_only():
    good = orjson.dumps(TICK)
    lines = [
        good,
        b'{"symbol": "A',
        b"\xff\xfe",
        b"",
        b"  \r",
        b'{"price": NaN}',
        b'{"price": 1e400}',
        b"a\0b",
        good,
    ]
    frame = parse_ticks(b"\r\n".join(lines), LINES)
    assert frame.height == 7
    assert frame["problem"].is_null().to_list() == [True, *[False] * 5, True]
    assert frame["problem"][1].startswith("not JSON: ")
    assert frame["raw"].to_list() == [
        None,
        '{"symbol": "A',
        "��",
        '{"price": NaN}',
        '{"price": 1e400}',
        "a�b",
        None,
    ]


def test_what_was_sent_is_kept_up_to_a_length():
    row = parse_one(price="x" * 50_000)
    assert len(row["raw"]) == 8 * 1024
    assert len(row["problem"]) < 200


def test_a_duplicated_key_counts_as_it_stands_last():
    assert parse_ticks(b'[{"symbol": "A", "symbol": "B"}]', JSON)["symbol"].to_list() == ["B"]


def test_nesting_is_a_problem_of_its_row():
    for depth in (100, 900):
        deep = b"[" * depth + b"]" * depth
        frame = parse_ticks(b'[{"symbol": ' + deep + b"}," + orjson.dumps(TICK) + b"]", JSON)
        assert frame["problem"][0].startswith("symbol: not text: [[")
        assert frame.row(1, named=True) == READ
    with pytest.raises(InvalidInput):
        parse_ticks(b"[" * 100_000, JSON)


# --- refused bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"5", b'"x"', b"null", b"NaN", b"[NaN", b'[{"price": 1e400}]', b"[{}] x", b'["\\ud800"]', b"\xff"],
)
def test_what_is_not_json(body):
    with pytest.raises(InvalidInput, match=r"^body: ") as refused:
        parse_ticks(body, JSON)
    assert refused.value.field == "body"


@pytest.mark.parametrize(
    "content_type", ["text/csv", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_other_content_types(content_type):
    with pytest.raises(InvalidInput, match=r"^Content-Type: got .*; takes application/json, application/x-ndjson"):
        parse_ticks(b"", content_type)


def test_no_rows():
    for body, kind in ((b"[]", JSON), (b"\n \n", LINES), (arrow(TICKS.to_frame()), ARROW)):
        frame = parse_ticks(body, kind)
        assert (frame.schema, frame.height) == (PARSED_TICKS, 0)


def test_too_many_rows():
    rows = MAX_ROWS + 1
    for body, kind in (
        (b"[" + b"{}," * MAX_ROWS + b"{}]", JSON),
        (b"[" + b"0," * MAX_ROWS + b"0]", JSON),
        (b"0\n" * rows, LINES),
        (arrow(pl.DataFrame({"price": range(rows)})), ARROW),
        (arrow(pl.DataFrame({"price": range(rows)}), "file"), ARROW),
        (arrow(pl.DataFrame({"symbol": [None] * rows}), compression="zstd"), ARROW),
    ):
        with pytest.raises(TooLarge, match="at most 100,000 rows"):
            parse_ticks(body, kind)


@pytest.mark.parametrize(
    "body", [b"[" + b"[]," * 2_000_000 + b"[]]", b"[" + b"0," * 6_000_000 + b"0]", b'{"":' * 2_000_000]
)
def test_what_would_unpack_to_much_more_is_not_unpacked(body):
    with pytest.raises(TooLarge):
        parse_ticks(body, JSON)


# --- Arrow ---------------------------------------------------------------------------------------

FRAME = pl.DataFrame([READ, {**READ, "trade_id": None, "conditions": None}], schema=PARSED_TICKS)
PLAIN = FRAME.select(TICKS.names())


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("level", [pl.CompatLevel.oldest(), pl.CompatLevel.newest()], ids=["oldest", "newest"])
def test_arrow(kind, compression, level):
    assert parse_ticks(arrow(PLAIN, kind, compression=compression, compat_level=level), ARROW).equals(FRAME)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("ts", [NOON] * 2, pl.Datetime("ns", "America/New_York")),
        pl.Series("time", [NOON.replace(tzinfo=None)] * 2, pl.Datetime("ms")),
        pl.Series("timestamp", ["2026-02-27T12:05:00Z", "2026-02-27 14:05:00+0200"]),
        pl.Series("ts", [1772193900] * 2, pl.Int32),
        pl.Series("ts", [1772193900_000] * 2, pl.UInt64),
        pl.Series("ts", [1772193900.0] * 2),
        pl.Series("price", [Decimal("189.72")] * 2),
        pl.Series("price", ["189.72"] * 2),
        pl.Series("volume", [8341] * 2, pl.UInt16),
        pl.Series("symbol", ["AAPL"] * 2, pl.Categorical),
        pl.Series("symbol", ["AAPL"] * 2, pl.Enum(["AAPL"])),
        pl.Series("conditions", [["@", "I"], []]),
        pl.Series("exchange", ["V"] * 2, pl.Categorical),
        pl.Series("extra", [b"x"] * 2),
    ],
    ids=lambda column: f"{column.name}-{column.dtype}",
)
def test_arrow_columns_of_other_types(column):
    replaced = {"time": "ts", "timestamp": "ts", "volume": "size"}.get(column.name, column.name)
    frame = PLAIN.drop(replaced, strict=False).with_columns(column)
    assert parse_ticks(arrow(frame), ARROW).equals(FRAME)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pl.Series("price", ["x", "2"]), "price: not a number: 'x'"),
        (pl.Series("price", [b"x", None]), "price: cannot be read from a column of Binary"),
        (
            pl.Series("ts", [2**62, 0], pl.Datetime("ms")),
            "ts: not a time in the years 1970 to 2200: \"4611686018427387904 of Datetime(time_unit='ms', time_zone=None)\"",  # noqa: E501
        ),
        (pl.Series("ts", [-(2**31), 1], pl.Int32).cast(pl.Date), None),
        (pl.Series("ts", [float("nan"), 1.0]), "ts: not a time in the years 1970 to 2200: nan"),
        (
            pl.Series("ts", [timedelta(1), None]),
            "ts: cannot be read from a column of Duration(time_unit='us')",
        ),
        (pl.Series("trade_id", [1.5, None]), "trade_id: cannot be read from a column of Float64"),
        (pl.Series("conditions", [[1], None]), "conditions: cannot be read from a column of List(Int64)"),
        (pl.Series("conditions", [["@", None], ["@"]]), "conditions: not a list of text: ['@', None]"),
        (pl.Series("symbol", [None, "A"], pl.String), "symbol: missing"),
        (
            pl.Series("symbol", [{"a": 1}, None]),
            "symbol: cannot be read from a column of Struct({'a': Int64})",
        ),
    ],
    ids=lambda value: f"{value.name}-{value.dtype}" if isinstance(value, pl.Series) else "",
)
def test_arrow_rows_that_cannot_be_read(column, problem):
    frame = parse_ticks(arrow(PLAIN.with_columns(column)), ARROW)
    assert frame["problem"][0] is not None
    if problem:
        assert frame["problem"][0] == problem
    assert orjson.loads(frame["raw"][0])["price"] is not None or column.name == "price"


def test_arrow_without_any_column_of_ours_is_rows_all_the_same():
    frame = parse_ticks(arrow(pl.DataFrame({"x": [1, 2]})), ARROW)
    assert frame["problem"].to_list() == ["symbol: missing; ts: missing; price: missing; size: missing"] * 2
    assert frame["raw"].to_list() == ["{}", "{}"]


def test_arrow_of_other_writers():
    arrow_library = pytest.importorskip("pyarrow")
    table = arrow_library.table(
        {
            "symbol": arrow_library.array(["AAPL", "MSFT", "AAPL"]).dictionary_encode(),
            "time": arrow_library.array([1772193900] * 3, arrow_library.timestamp("s")),
            "price": arrow_library.array([1.5, 2.5, None], arrow_library.float32()),
            "size": arrow_library.array([1, 2, 3], arrow_library.uint8()),
        }
    )
    for writer in (arrow_library.ipc.new_stream, arrow_library.ipc.new_file):
        sink = io.BytesIO()
        with writer(sink, table.schema) as out:
            out.write_table(table, max_chunksize=2)
        frame = parse_ticks(sink.getvalue(), ARROW)
        assert frame["symbol"].to_list() == ["AAPL", "MSFT", "AAPL"]
        assert frame["ts"].to_list() == [NOON] * 3
        assert frame["problem"].to_list() == [None, None, "price: missing"]


def test_a_compression_bomb_is_not_unpacked():
    body = bytearray(arrow(PLAIN, compression="zstd"))
    (metadata,) = struct.unpack_from("<i", body, 4)
    (batch,) = struct.unpack_from("<i", body, 8 + metadata + 4)
    start = 8 + metadata + 8 + batch  # of the first buffer: it begins with its length when unpacked
    struct.pack_into("<q", body, start, 2**40)
    with pytest.raises(TooLarge, match="may unpack to at most"):
        parse_ticks(bytes(body), ARROW)


@pytest.mark.slow
def test_a_dictionary_that_repeats_one_long_text_is_not_written_out():
    frame = pl.DataFrame({"symbol": pl.Series(["x" * 1_000_000] * 1_000, dtype=pl.Categorical)})
    with pytest.raises(TooLarge, match="may unpack to at most"):
        parse_ticks(arrow(frame), ARROW)


# --- arbitrary bodies --------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(list(TICK.values())[:6]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = st.sampled_from([*TICKS, "timestamp", "event_time", "time", "volume"]) | st.text()
OBJECTS = st.dictionaries(NAMES, VALUES)


def parses_or_refuses(body, content_type):
    try:
        frame = parse_ticks(body, content_type)
    except InvalidInput as refused:
        assert refused.field == "body"  # noqa: PT017  # either error is right
        assert str(refused).startswith("body: ")  # noqa: PT017
        return
    except TooLarge as refused:
        assert re.match(r"one request |the metadata of a message is too long", str(refused))  # noqa: PT017
        return
    assert frame.schema == PARSED_TICKS
    for row in frame.to_dicts():
        assert (row["problem"] is None) == (row["raw"] is None)
        complete = all(row[name] is not None for name in ("symbol", "ts", "price", "size"))
        assert complete or row["problem"]


@given(st.binary(), st.sampled_from([JSON, LINES, ARROW]))
@example(b"ARROW1", ARROW)
@example(b"\xff\xff\xff\xff\xff\xff\xff\x7f", ARROW)
def test_any_bytes(body, content_type):
    parses_or_refuses(body, content_type)


@pytest.mark.thorough
@pytest.mark.slow
@given(st.lists(OBJECTS | VALUES))
def test_any_json(rows):
    body = json.dumps(rows).encode()
    parses_or_refuses(body, JSON)
    parses_or_refuses(body.replace(b"},", b"}\n"), LINES)


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), max_size=4),
    st.sampled_from(["stream", "file"]),
)
def test_any_damage_to_arrow(damage, kind):
    body = bytearray(arrow(PLAIN, kind))
    for at, byte in damage:
        body[at % len(body)] = byte
    parses_or_refuses(bytes(body), ARROW)


@pytest.mark.thorough
@pytest.mark.slow
@given(st.lists(OBJECTS, min_size=1), st.data())
def test_a_row_is_read_the_same_among_any_others(rows, data):
    """The fast path of a column and the slow one of a value say the same."""
    at = data.draw(st.integers(0, len(rows) - 1))
    together = parse_ticks(json.dumps(rows).encode(), JSON)
    alone = parse_ticks(json.dumps(rows[at : at + 1]).encode(), JSON)
    assert together.row(at) == alone.row(0)


def with_zone(zone):
    """Return an Arrow stream of a tick whose time has this zone in the schema, whether Polars knows it or not."""
    at, long = pl.Series([NOON]).dt.convert_time_zone("America/Nassau"), b"America/Nassau"
    body = pl.DataFrame({"symbol": "A", "ts": at, "price": 1.0, "size": 1.0}).write_ipc_stream(None).getvalue()
    start = body.index(long)
    size = len(zone).to_bytes(4, "little")
    return body[: start - 4] + size + zone + bytes(len(long) - len(zone)) + body[start + len(long) :]


@pytest.mark.parametrize(
    "zone", ["+05:30", "-03:00", "Z", "UTC", "Asia/Kolkata", "Mars/Phobos", "GMT+1", "+5", "\u00e9"]
)
def test_arrow_times_of_any_zone_count_from_1970_in_utc(zone, capfd):
    assert parse_ticks(with_zone(zone.encode()), ARROW)["ts"].to_list() == [NOON]
    assert capfd.readouterr().err == ""


def test_a_number_that_json_does_not_have_is_its_rows_problem():
    body = b'[{"price": NaN, "size": -Infinity, "exchange": Infinity, "x": "NaN \\" NaN"}, NaN, {"price": 1}]'
    frame = parse_ticks(body, JSON)
    assert frame["problem"].to_list() == [
        "symbol: missing; ts: missing; exchange: not text: inf",
        "not an object: nan",
        "symbol: missing; ts: missing; size: missing",
    ]
    assert frame["raw"][0] == body[1 : body.index(b"}") + 1].decode()
    assert frame["raw"][1] == "NaN"
    assert frame["price"].to_list()[1:] == [None, 1]


def test_a_long_body_of_open_quotes_is_read_once():
    """A pattern that starts again at each quote would take hours."""
    with pytest.raises(InvalidInput):
        parse_ticks(b'[NaN, "' + b'\\"' * 1_000_000, JSON)
