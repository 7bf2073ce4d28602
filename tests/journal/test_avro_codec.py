"""Records as Avro: read and written by us, by Confluent's serializers, and with older and newer schemas."""

import io
import json
import struct
from datetime import UTC, datetime, timedelta

import fastavro
import polars as pl
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given
from hypothesis import strategies as st
from records_data import (
    ANALYTICS,
    ANY_BARS,
    ANY_CORRECTIONS,
    ANY_OHLCV,
    ANY_TICKS,
    BAR,
    NOON,
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
from registry_server import serving

from stockpulse.errors import Unavailable
from stockpulse.journal.codecs import BROKEN, OHLCV, PLACED, RECORDED_BARS, RECORDED_CORRECTIONS, RECORDED_TICKS
from stockpulse.journal.codecs.avro_codec import AvroCodec
from stockpulse.journal.codecs.avro_schemas import schema_of
from stockpulse.journal.codecs.registry import Registry
from stockpulse.journal.records import Forget
from stockpulse.market.times import micros

RAW = SerializationContext("market.raw", MessageField.VALUE)
SCHEMA = json.loads(schema_of("Tick"))
REQUIRED = {"symbol": "AAPL", "ts": TICK["ts"], "price": 189.72, "size": 100.0}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}


@pytest.fixture(scope="module")
def server():
    with serving("us:s3cret") as registry:
        yield registry


def connected(server):
    codec = AvroCodec(Registry(server.url, "us", "s3cret", retries=0))
    codec.prepare()
    return codec


@pytest.fixture(scope="module")
def codec(server):
    return connected(server)


@pytest.fixture(scope="module")
def confluent(server):
    return SchemaRegistryClient({"url": server.url, "basic.auth.user.info": "us:s3cret", "max.retries": 0})


def record(number, schema, row):
    """Encode a value as any serializer with this schema does."""
    buffer = io.BytesIO(struct.pack(">bI", 0, number))
    buffer.seek(5)
    fastavro.schemaless_writer(buffer, schema, row)
    return buffer.getvalue()


def written_as(server, schema, row):
    """Register the schema and encode a value with it."""
    return record(server.add(schema), schema, row)


def with_fields(*fields):
    return {**SCHEMA, "fields": [*SCHEMA["fields"], *fields]}


def of_fields(**types):
    return {**SCHEMA, "fields": [{"name": name, "type": kind} for name, kind in types.items()]}


# --- with ourselves ------------------------------------------------------------------------------


@given(some_ticks=ANY_TICKS, some_bars=ANY_BARS)
def test_what_goes_out_comes_back_to_the_bit(codec, some_ticks, some_bars):
    decoded = codec.decode([*codec.encode_ticks(some_ticks), *codec.encode_bars(some_bars)])
    assert bits(content(decoded.ticks, RECORDED_TICKS)).equals(bits(some_ticks))
    assert bits(content(decoded.bars, RECORDED_BARS)).equals(bits(some_bars))
    assert [*decoded.ticks["row"], *decoded.bars["row"]] == list(range(len(some_ticks) + len(some_bars)))


@given(frame=ANY_OHLCV)
def test_so_do_our_bars(codec, frame):
    assert bits(codec.decode_ohlcv(codec.encode_ohlcv(frame))).equals(bits(frame))


@pytest.mark.thorough
@given(some_ticks=ANY_TICKS)
@pytest.mark.slow
def test_another_process_reads_it_by_the_registry(server, codec, some_ticks):
    """Decode without registering anything: the codec fetches the schema."""
    other = AvroCodec(Registry(server.url, "us", "s3cret", retries=0))
    decoded = other.decode(codec.encode_ticks(some_ticks))
    assert bits(content(decoded.ticks, RECORDED_TICKS)).equals(bits(some_ticks))


def test_nothing(codec):
    assert codec.encode_ticks(ticks()) == codec.encode_bars(bars()) == codec.encode_analytics(ANALYTICS[:0]) == []
    decoded = codec.decode([])
    assert decoded.ticks.schema == {**RECORDED_TICKS, **PLACED}
    assert decoded.bars.schema == {**RECORDED_BARS, **PLACED}
    assert decoded.broken.schema == BROKEN
    assert codec.decode_ohlcv([]).schema == OHLCV


def test_the_places_are_kept_in_a_mixture(server, codec):
    (tick,), (bar,), end = codec.encode_ticks(ticks(TICK)), codec.encode_bars(bars(BAR)), codec.encode_end("tape", NOON)
    old = written_as(server, of_fields(symbol="string", ts=MICROS, price="double", size="double"), REQUIRED)
    decoded = codec.decode([old, tick, bar, end, None, old, bar, end, tick])
    assert decoded.ticks["row"].to_list() == [0, 1, 5, 8]
    assert decoded.ticks["trade_id"].to_list() == [None, "1", None, "1"]
    assert decoded.bars["row"].to_list() == [2, 6]
    assert (decoded.ends, decoded.broken["row"].to_list()) == ([(3, "tape"), (7, "tape")], [4])


@given(some=ANY_CORRECTIONS)
def test_corrections_come_back_to_the_bit(codec, some):
    decoded = codec.decode(codec.encode_corrections(some))
    assert bits(content(decoded.corrections, RECORDED_CORRECTIONS)).equals(bits(some))


def test_a_correction_of_another_version_may_have_fewer_fields_or_more(server, codec):
    fields = {"symbol": "string", "trade_id": "string", "ts": MICROS}
    older = {"type": "record", "name": "Correction", "fields": [{"name": k, "type": t} for k, t in fields.items()]}
    newer = older | {"fields": [*older["fields"], {"name": "why", "type": "string"}]}
    row = {"symbol": "AAPL", "trade_id": "1", "ts": NOON}
    values = [written_as(server, older, row), written_as(server, newer, row | {"why": "error"})]
    found = content(codec.decode(values).corrections, RECORDED_CORRECTIONS)
    assert found.select("symbol", "trade_id", "ts", "price", "since").rows() == [("AAPL", "1", NOON, None, None)] * 2


def test_a_forget(codec):
    for forget in (Forget("AAPL", "tape", 0, 1_500_000), Forget("AAPL", None), Forget(None, "tape", micros(NOON))):
        assert codec.decode([None, codec.encode_forget(forget, NOON)]).forgets == [(1, forget)]


def test_a_forget_of_another_program_may_leave_out_what_is_optional(server, codec):
    schema = {"type": "record", "name": "Forget", "fields": [{"name": "provider", "type": "string"}]}
    schema["fields"] += [{"name": name, "type": MICROS} for name in ("start", "end")]
    values = {"provider": "tape", "start": NOON, "end": NOON + timedelta(seconds=1)}
    [(_, forget)] = codec.decode([written_as(server, schema, values)]).forgets
    assert forget == Forget(None, "tape", micros(NOON), micros(NOON) + 1_000_000)
    wrong = codec.decode(
        [written_as(server, schema, values | {"end": NOON}), codec.encode_forget(Forget(None, None), NOON)]
    )
    assert wrong.broken["reason"].to_list() == [
        "end: comes after start",
        "symbol, provider: a forget takes one of them at least",
    ]


def test_confluent_reads_a_forget(codec, confluent):
    value = codec.encode_forget(Forget("AAPL", None, micros(NOON), micros(NOON) + 1), NOON)
    assert AvroDeserializer(confluent)(value, RAW) == {
        "symbol": "AAPL",
        "provider": None,
        "received_at": NOON,
        "start": NOON,
        "end": NOON + timedelta(microseconds=1),
    }


# --- with Confluent's serializers --------------------------------------------------------------


def test_confluent_reads_what_we_write(codec, confluent):
    read = AvroDeserializer(confluent)
    assert read(codec.encode_ticks(ticks(TICK))[0], RAW) == TICK
    expected = {"timestamp": BAR["ts"], **{name: value for name, value in BAR.items() if name != "ts"}}
    assert read(codec.encode_bars(bars(BAR))[0], RAW) == expected
    assert read(codec.encode_end("tape", NOON), RAW) == {"provider": "tape", "received_at": NOON}
    assert read(codec.encode_ohlcv(ohlcv(OWN_BAR))[0], RAW) == {**OWN_BAR, "deleted": None}
    assert read(codec.encode_signals(signals(SIGNAL, {**SIGNAL, "price": None}))[1], RAW) == {**SIGNAL, "price": None}
    values = [read(value, RAW) for value in codec.encode_analytics(ANALYTICS)]
    assert [value.pop("values") for value in values] == [
        {"sma_20": 0.1 + 0.2, "rsi_14": 50.0},
        {"sma_20": None, "rsi_14": None},
        {"sma_20": None, "rsi_14": None},
    ]
    assert values == ANALYTICS.select("symbol", "interval", "timestamp", "revision").to_dicts()
    assert [read(value, RAW)["values"] for value in codec.encode_analytics(ANALYTICS.drop("sma_20", "rsi_14"))] == [
        {}
    ] * 3


def by_record(_, name, *__):
    return name


def test_we_read_what_confluent_writes(codec, confluent):
    """Confluent's serializer registers our schema, or another program's."""
    options = {"auto.register.schemas": True, "subject.name.strategy": by_record}
    ours = AvroSerializer(confluent, schema_of("Tick"), conf=options)
    theirs = AvroSerializer(
        confluent,
        json.dumps(of_fields(symbol="string", event_time=MICROS, price="float", volume="int", venue="string")),
        conf={**options, "subject.name.strategy": lambda *_: "theirs"},
    )
    values = [
        ours(TICK, RAW),
        theirs({"symbol": "MSFT", "event_time": NOON, "price": 0.5, "volume": 3, "venue": "X"}, RAW),
    ]
    bare = dict.fromkeys(RECORDED_TICKS)
    expected = ticks(TICK, {**bare, "symbol": "MSFT", "ts": NOON, "price": 0.5, "size": 3.0})
    assert content(codec.decode(values).ticks, RECORDED_TICKS).equals(expected)
    assert values[0] == codec.encode_ticks(ticks(TICK))[0]


# --- with schemas that have changed --------------------------------------------------------------

NEXT = with_fields({"name": "venue", "type": "string", "default": "?"})


class NextCodec(AvroCodec):
    """A codec of the next version: a trade has one more field."""

    def __init__(self, registry):
        super().__init__(registry)
        self._plain["Tick"] = fastavro.parse_schema(NEXT)
        self._readers["Tick"] = fastavro.parse_schema(NEXT)


def test_versions_read_each_other(server, codec, confluent):
    newer = {**TICK, "venue": "X"}
    value_1, value_2 = codec.encode_ticks(ticks(TICK))[0], written_as(server, NEXT, newer)
    assert content(codec.decode([value_1, value_2]).ticks, RECORDED_TICKS).equals(ticks(TICK, TICK))
    later = NextCodec(Registry(server.url, "us", "s3cret", retries=0))
    assert content(later.decode([value_1, value_2]).ticks, RECORDED_TICKS).equals(ticks(TICK, TICK))
    read_2 = AvroDeserializer(confluent, json.dumps(NEXT))
    assert [read_2(value, RAW)["venue"] for value in (value_1, value_2)] == ["?", "X"]
    read_1 = AvroDeserializer(confluent, schema_of("Tick"))
    assert [read_1(value, RAW) for value in (value_1, value_2)] == [TICK, TICK]


@pytest.mark.parametrize(
    ("types", "row"),
    [
        ({"ts": MICROS, "size": "double"}, {"ts": NOON, "size": 2.0}),
        ({"timestamp": MICROS, "volume": "long"}, {"timestamp": NOON, "volume": 2}),
        ({"ts": {"type": "long", "logicalType": "timestamp-millis"}, "size": "int"}, {"ts": NOON, "size": 2}),
        ({"time": "long", "size": "float"}, {"time": 1772465400, "size": 2.0}),
        ({"time": "long", "size": "float"}, {"time": 1772465400_000_000_000, "size": 2.0}),
        (
            {"ts": {"type": "long", "logicalType": "local-timestamp-micros"}, "size": "double"},
            {"ts": NOON.replace(tzinfo=None), "size": 2.0},
        ),
        (
            {"ts": MICROS, "size": "double", "book": {"type": "array", "items": "double"}, "x": ["null", "bytes"]},
            {"ts": NOON, "size": 2.0, "book": [1.0, 2.0], "x": b"\0"},
        ),
    ],
    ids=str,
)
def test_others_schemas(server, codec, types, row):
    schema = of_fields(symbol="string", price="double", **types)
    decoded = codec.decode([written_as(server, schema, {"symbol": "AAPL", "price": 1.5, **row})])
    expected = {**dict.fromkeys(RECORDED_TICKS), "symbol": "AAPL", "ts": NOON, "price": 1.5, "size": 2.0}
    assert decoded.ticks.to_dicts() == [{**expected, "row": 0, "problem": None, "raw": None}]


def test_others_logical_types_are_read_as_what_they_mark(server, codec):
    schema = of_fields(
        symbol="string", ts=MICROS, price="double", size="double", trade_id={"type": "string", "logicalType": "uuid"}
    )
    number = server.add(schema)
    plain = of_fields(symbol="string", ts=MICROS, price="double", size="double", trade_id="string")
    for trade_id in ("2f1e7a40-0000-4000-8000-000000000000", "no uuid at all"):
        decoded = codec.decode([record(number, plain, {**REQUIRED, "trade_id": trade_id})])
        assert decoded.ticks["trade_id"].to_list() == [trade_id]


def test_other_namespaces_are_fine(server, codec):
    schema = {**of_fields(symbol="string", ts=MICROS, price="double", size="double"), "namespace": "com.acme"}
    assert codec.decode([written_as(server, schema, REQUIRED)]).ticks["problem"].to_list() == [None]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"symbol": "A\0"}, "symbol: has a null byte: 'A\\x00'"),
        ({"symbol": ""}, "symbol: missing"),
        ({"ts": datetime(2300, 1, 1, tzinfo=UTC)}, 'ts: not a time in the years 1970 to 2200: "10413792000000000 of'),
        ({"exchange": "V" * 257}, "exchange: longer than 256 characters: "),
    ],
)
def test_a_bad_field_is_a_problem_of_its_row(codec, row, problem):
    values = [value for one in (TICK, {**TICK, **row}, TICK) for value in codec.encode_ticks(ticks(one))]
    decoded = codec.decode(values)
    assert decoded.broken.is_empty()
    before, why, after = decoded.ticks["problem"]
    assert (before, why[: len(problem)], after) == (None, problem, None)
    assert json.loads(decoded.ticks["raw"][1])["price"] == 189.72
    assert content(decoded.ticks, RECORDED_TICKS).equals(ticks(TICK, TICK))


# --- values that are no records ------------------------------------------------------------------


def poison(server, codec):
    good = codec.encode_ticks(ticks(TICK))[0]
    node = {"type": "record", "name": "Tick", "fields": [{"name": "symbol", "type": ["string", "Tick"]}]}
    other = {"type": "record", "name": "Quote", "fields": [{"name": "symbol", "type": "string"}]}
    without_price = of_fields(symbol="string", ts=MICROS, size="double")
    price_as_text = of_fields(symbol="string", ts=MICROS, price="string", size="double")
    takes = "takes a record called Tick, Bar, Correction, End, Forget"
    return {
        "tombstone": (None, "no value: a tombstone"),
        "nothing": (b"", "not Avro of a schema registry: "),
        "short": (b"\0\0\0\0", "not Avro of a schema registry: "),
        "json": (b'{"symbol":"AAPL"}', "not Avro of a schema registry: "),
        "unknown": (b"\0\0\0\x27\x0f" + good[5:], "schema 9999: the registry has no Avro schema of this number"),
        "far": (b"\0\xff\xff\xff\xff" + good[5:], "schema 4294967295: the registry has no Avro schema"),
        "truncated": (good[:-1], "not a Tick of schema 1: "),
        "empty": (good[:5], "not a Tick of schema 1: "),
        "longer": (good + b"\0", "not a Tick of schema 1: longer than that"),
        "long text": (good[:5] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "not a Tick of schema 1: "),
        "negative text": (good[:5] + b"\x01", "not a Tick of schema 1: "),
        "no end of a number": (good[:5] + b"\xff" * 50, "not a Tick of schema 1: "),
        "not UTF-8": (good.replace(b"AAPL", b"\xff\xfe\xfd\xfc"), "not a Tick of schema 1: "),
        "no such branch": (good[:-2] + b"\x7f\x0e", "not a Tick of schema 1: "),
        "huge": (good[:5] + b"\0" * (1 << 20), "longer than 1,048,576 bytes: 1,048,581"),
        "derived": (
            codec.encode_ohlcv(ohlcv(OWN_BAR))[0],
            f"schema 4: {takes}; got 'Ohlcv'",
        ),
        "quote": (
            written_as(server, other, {"symbol": "A"}),
            f"{takes}; got 'Quote'",
        ),
        "no record": (
            record(server.add('"string"'), "string", "x"),
            f"{takes}; got ''",
        ),
        "recursive": (written_as(server, node, {"symbol": "A"}), "cannot be used: ValueError('Tick contains itself')"),
        "no schema": (struct.pack(">bI", 0, server.add("{")), "cannot be used: "),
        "no price": (
            written_as(server, without_price, {"symbol": "A", "ts": NOON, "size": 1.0}),
            "not compatible with our Tick: ",
        ),
        "text": (written_as(server, price_as_text, {**REQUIRED, "price": "1"}), "not compatible with our Tick: "),
        "beyond dates": (
            record(
                server.add(of_fields(symbol="string", ts=MICROS, price="double", size="double")),
                of_fields(symbol="string", ts="long", price="double", size="double"),
                {**REQUIRED, "ts": 2**62},
            ),
            "not a Tick of schema",
        ),
        "end of nobody": (
            codec.encode_end("No\0body", NOON),
            "provider: an end takes the name of one; got 'No\\x00body'",
        ),
    }


def test_what_is_no_record_says_why_and_harms_nobody(server, codec):
    (good,) = codec.encode_ticks(ticks(TICK))
    for name, (value, reason) in poison(server, codec).items():
        decoded = codec.decode([good, value, good])
        assert content(decoded.ticks, RECORDED_TICKS).equals(ticks(TICK, TICK)), name
        assert decoded.ticks["row"].to_list() == [0, 2], name
        ((row, why, raw),) = decoded.broken.rows()
        assert (row, reason in why, len(why) < 400) == (1, True, True), (name, why)
        assert raw == kept_text(value)


def test_all_of_it_together_harms_nobody(server, codec):
    (good,) = codec.encode_ticks(ticks(TICK))
    values = [value for bad, _ in poison(server, codec).values() for value in (bad, good)]
    decoded = codec.decode(values)
    assert content(decoded.ticks, RECORDED_TICKS).equals(ticks(*[TICK] * (len(values) // 2)))
    assert decoded.broken["row"].to_list() == list(range(0, len(values), 2))


@given(
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 200),
)
def test_any_damage(codec, damage, cut):
    (good,), (bar,) = codec.encode_ticks(ticks(TICK)), codec.encode_bars(bars(BAR))
    for value in (bytearray(good), bytearray(bar)):
        for at, byte in damage:
            value[5 + at % (len(value) - 5)] = byte
        decoded = codec.decode([good, bytes(value[: max(5, len(value) - cut)]), good])
        assert places(decoded) == [0, 1, 2]
        assert content(decoded.ticks.filter(pl.col("row") != 1), RECORDED_TICKS).equals(ticks(TICK, TICK))


@given(values=st.lists(st.binary() | st.binary().map(lambda tail: b"\0\0\0\0\x01" + tail)))
def test_any_bytes(codec, values):
    (good,) = codec.encode_ticks(ticks(TICK))
    decoded = codec.decode([one for value in values for one in (value, good)])
    assert places(decoded) == list(range(2 * len(values)))
    assert content(decoded.ticks.filter(pl.col("row") % 2 == 1), RECORDED_TICKS).equals(ticks(*[TICK] * len(values)))


def test_of_our_bars_what_is_none_is_left_out(codec):
    first, second = codec.encode_ohlcv(ohlcv(OWN_BAR, {**OWN_BAR, "timestamp": NOON + timedelta(minutes=1)}))
    values = [first, None, b"\xff", *codec.encode_ticks(ticks(TICK)), second[:-1], second]
    assert codec.decode_ohlcv(values)["timestamp"].to_list() == [NOON, NOON + timedelta(minutes=1)]


# --- without the registry ------------------------------------------------------------------------


def test_an_outage_is_no_poison():
    with serving("us:s3cret") as server:
        codec = connected(server)
        ours = codec.encode_ticks(ticks(TICK))
        theirs = written_as(server, of_fields(symbol="string", ts=MICROS, price="double", size="double"), REQUIRED)
        server.failing = 503
        assert codec.decode(ours).ticks.height == 1  # known schemas need no registry
        with pytest.raises(Unavailable):
            codec.decode([*ours, theirs])
        server.failing = None
        assert codec.decode([*ours, theirs]).ticks["problem"].to_list() == [None, None]


def test_a_schema_that_comes_later_is_read_later():
    now = [0.0]
    with serving() as server:
        codec = AvroCodec(Registry(server.url, retries=0, clock=lambda: now[0]))
        codec.prepare()
        schema = of_fields(symbol="string", ts=MICROS, price="double", size="double")
        value = record(len(server.schemas) + 1, schema, REQUIRED)
        assert codec.decode([value]).broken.height == 1
        server.add(schema)
        now[0] += 11
        assert codec.decode([value]).ticks["problem"].to_list() == [None]
