"""The schema registry over HTTP: ids for schemas, schemas for ids, and outages."""

import json
import sys

import pytest
from registry_server import serving

from stockpulse.errors import CannotStart, Unavailable
from stockpulse.journal.codecs.avro_codec import AvroCodec
from stockpulse.journal.codecs.avro_schemas import NAMES, check, schema_of, subject_of
from stockpulse.journal.codecs.choice import choose
from stockpulse.journal.codecs.json_codec import JsonCodec
from stockpulse.journal.codecs.registry import Registry

TICK = json.loads(schema_of("Tick"))
NOTHING_LISTENS = "http://127.0.0.1:9"


class Clock:
    seconds = 1_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def server():
    with serving() as registry:
        yield registry


def fresh(server, **options):
    return Registry(server.url, retries=0, **options)


def with_fields(*fields):
    return {**TICK, "fields": [*TICK["fields"], *fields]}


# --- registering -------------------------------------------------------------------------------


def test_our_schemas_are_registered_once(server):
    numbers = [fresh(server).register(subject_of(name), schema_of(name)) for name in (*NAMES, *NAMES)]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8] * 2
    assert set(server.subjects) == {
        f"stockpulse.{name}" for name in ("Tick", "Bar", "End", "Forget", "Ohlcv", "Analytics", "Signal", "Correction")
    }
    assert json.loads(server.schemas[1]["schema"]) == TICK


def test_a_compatible_version_is_registered_beside_the_old_one(server):
    server.add(with_fields({"name": "old", "type": "string"}), "stockpulse.Tick")
    AvroCodec(fresh(server)).prepare()
    assert len(server.subjects["stockpulse.Tick"]) == 2


def test_an_incompatible_version_is_a_reason_not_to_start(server):
    server.add({**TICK, "fields": TICK["fields"][1:]}, "stockpulse.Tick")
    with pytest.raises(
        CannotStart, match=r"schema of stockpulse\.Tick that ours is not compatible with: .*symbol is new"
    ):
        AvroCodec(fresh(server)).prepare()
    assert len(server.subjects["stockpulse.Tick"]) == 1


@pytest.mark.parametrize(("key", "secret"), [(None, None), ("us", "wrong"), ("us", None)])
def test_a_wrong_secret_is_a_reason_not_to_start(key, secret):
    with serving("us:s3cret") as server:
        with pytest.raises(CannotStart, match=r"HTTP 401.*SCHEMA_REGISTRY_SECRET") as refused:
            Registry(server.url, key, secret, retries=0).register("stockpulse.Tick", schema_of("Tick"))
        assert "wrong" not in str(refused.value)
        assert server.schemas == {}


def test_the_right_secret():
    with serving("us:s3cret:with:colons") as server:
        registry = Registry(server.url, "us", "s3cret:with:colons", retries=0)
        number = registry.register("stockpulse.Tick", schema_of("Tick"))
        assert json.loads(Registry(server.url, "us", "s3cret:with:colons").schema(number)) == TICK


def test_a_schema_that_is_none_is_a_reason_not_to_start(server):
    server.failing, server.failing_body = 422, b'{"error_code": 42201, "message": "Invalid schema"}'
    with pytest.raises(CannotStart, match=r"refuses our schema of stockpulse\.Tick: Invalid schema"):
        fresh(server).register("stockpulse.Tick", schema_of("Tick"))


# --- looking up ----------------------------------------------------------------------------------


def test_a_schema_is_fetched_once(server):
    number = server.add(TICK)
    registry = fresh(server)
    assert [json.loads(registry.schema(number)) for _ in range(3)] == [TICK] * 3
    assert len(server.requests) == 1


def test_an_unknown_number_is_believed_for_some_seconds(server):
    clock = Clock()
    registry = fresh(server, clock=clock)
    assert [registry.schema(1), registry.schema(1)] == [None, None]
    assert len(server.requests) == 1
    server.add(TICK)
    clock.seconds += 9.9
    assert registry.schema(1) is None
    clock.seconds += 0.2
    assert json.loads(registry.schema(1)) == TICK
    assert len(server.requests) == 2


def test_unknown_numbers_do_not_add_up(server):
    clock = Clock()
    registry = fresh(server, clock=clock)
    for number in range(1, 30):
        registry.schema(number)
        clock.seconds += 5
    assert len(registry._unknown_since) <= 3


@pytest.mark.parametrize("number", [0, 2**31, 2**32 - 1])
def test_numbers_that_no_schema_has_are_not_asked_for(server, number):
    assert fresh(server).schema(number) is None
    assert server.requests == []


def test_a_schema_of_another_kind_is_none(server):
    assert fresh(server).schema(server.add('{"type": "object"}', kind="JSON")) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error_code": 50001, "message": "broken"}'),
        (503, b"<html>out of order</html>"),
        (429, b"{}"),
        (404, b"<html>no such page</html>"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (401, b'{"error_code": 40101, "message": "Unauthorized"}'),
        (200, b"<html>log in first</html>"),
    ],
)
def test_a_registry_that_is_ill_is_an_outage_and_then_well_again(server, status, body):
    number = server.add(TICK)
    registry = fresh(server)
    server.failing, server.failing_body = status, body
    with pytest.raises(Unavailable, match="the schema registry does not answer"):
        registry.schema(number)
    server.failing = None
    assert json.loads(registry.schema(number)) == TICK


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_outage_while_registering_passes_as_well(server, status):
    server.failing = status
    with pytest.raises(Unavailable):
        fresh(server).register("stockpulse.Tick", schema_of("Tick"))


def test_a_registry_that_is_not_there():
    with pytest.raises(Unavailable, match="the schema registry does not answer"):
        Registry(NOTHING_LISTENS, retries=0).schema(1)
    with pytest.raises(Unavailable):
        Registry(NOTHING_LISTENS, retries=0).register("stockpulse.Tick", schema_of("Tick"))


# --- choosing ----------------------------------------------------------------------------------


def test_the_codec_is_chosen_by_name(server):
    assert isinstance(choose("json"), JsonCodec)
    codec = choose("avro", server.url)
    assert isinstance(codec, AvroCodec)
    codec.prepare()
    assert len(server.schemas) == 8


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("protobuf", None, "json or avro, not 'protobuf'"),
        ("avro", None, "set SCHEMA_REGISTRY_URL"),
        ("avro", "registry:8081", "SCHEMA_REGISTRY_URL: Invalid url registry:8081"),
    ],
)
def test_what_cannot_be_chosen(name, url, message):
    with pytest.raises(CannotStart, match=message):
        choose(name, url)


@pytest.mark.parametrize("library", ["fastavro", "confluent_kafka.schema_registry"])
def test_without_the_libraries_it_says_what_to_install(monkeypatch, library):
    for module in ("avro_codec", "registry"):
        monkeypatch.delitem(sys.modules, f"stockpulse.journal.codecs.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(CannotStart, match=r"Avro needs: pip install 'stockpulse\[avro\]'"):
        choose("avro", NOTHING_LISTENS)


# --- schemas that could make a short record endless --------------------------------------------

NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
EMPTY = {"type": "record", "name": "a.Empty", "fields": [{"name": "n", "type": "null"}]}


@pytest.mark.parametrize(
    "schema",
    [
        NODE,
        {"type": "array", "items": NODE},
        with_fields({"name": "extra", "type": ["null", {"type": "map", "values": NODE}]}),
        with_fields({"name": "extra", "type": {"type": "array", "items": "null"}}),
        {"type": "array", "items": EMPTY},
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
        with_fields({"name": "one", "type": EMPTY}, {"name": "extra", "type": {"type": "array", "items": "Empty"}}),
    ],
)
def test_such_schemas_are_refused(schema):
    with pytest.raises(ValueError, match=r"contains itself|an array of nothing"):
        check(schema)


@pytest.mark.parametrize(
    "schema",
    [
        *(json.loads(schema_of(name)) for name in NAMES),
        with_fields({"name": "one", "type": {"type": "fixed", "name": "F", "size": 2}}, {"name": "two", "type": "F"}),
        with_fields({"name": "some", "type": {"type": "array", "items": ["null", EMPTY]}}),
        with_fields({"name": "one", "type": {"type": "enum", "name": "E", "symbols": ["A"]}}),
    ],
)
def test_others_are_not(schema):
    check(schema)
