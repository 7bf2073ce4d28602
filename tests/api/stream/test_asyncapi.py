"""The AsyncAPI document agrees with the messages of the server."""

import json
from datetime import UTC, datetime

import jsonschema_rs
import polars as pl
import pytest

from stockpulse.api.stream.asyncapi import document
from stockpulse.api.stream.formats import FORMATS, told_missed
from stockpulse.api.stream.requests import read_action, read_request
from stockpulse.api.stream.session import Session
from stockpulse.errors import InvalidInput
from stockpulse.hub.messages import Batch, Change, Channel, Message, Missed

REQUESTS = [
    {"action": "ping"},
    {"action": "subscribe", "channel": "ticks", "symbols": "*", "snapshot": 5, "id": 1},
    {"action": "subscribe", "channel": "bars", "symbols": ["A"], "interval": "5Min", "start": "2026-02-27"},
    {"action": "subscribe", "channel": "bars", "symbols": ["A"], "resume": {"stream": "a", "seq": 5}},
    {"action": "unsubscribe", "channel": "indicators", "symbols": ["A"], "indicators": "rsi"},
    {"action": "subscribe", "channel": "movers", "minutes": 60},
]
WRONG = [
    {"action": "auth"},
    {"action": "subscribe", "channel": "quotes", "symbols": "A"},
    {"action": "subscribe", "channel": "ticks", "symbols": []},
    {"action": "subscribe", "channel": "bars", "symbols": "A", "interval": "7y"},
    {"action": "subscribe", "channel": "bars", "symbols": "A", "snapshot": -1},
    {"action": "subscribe", "channel": "movers", "minutes": 0},
    {"action": "subscribe", "channel": "bars", "symbols": "A", "resume": {"stream": "a"}},
]


def validator(message):
    found = document()
    payload = found["channels"]["stream"]["messages"][message]["payload"]
    return jsonschema_rs.validator_for(payload | {"components": found["components"]})


def is_read(request):
    try:
        return read_action(request) == "ping" or bool(read_request(request))
    except InvalidInput:
        return False


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_the_server_reads_is_valid(request_):
    assert is_read(request_)
    assert validator("requests").is_valid(request_)
    assert validator("requests").is_valid([request_])


@pytest.mark.parametrize("request_", WRONG)
def test_what_the_server_refuses_is_not_valid(request_):
    assert not is_read(request_)
    assert not validator("requests").is_valid(request_)


async def test_what_the_server_sends_is_valid():
    from hub.hub_parts import hub_of

    sent = []

    async def send(messages):
        sent.append(json.loads(FORMATS["json"].frame(messages)))

    class NoSnapshots:
        async def read(self, *_):
            for none in ():
                yield none

    session = Session(hub_of("A"), NoSnapshots(), FORMATS["json"], send)
    await session.welcome()
    for request in (*REQUESTS, *WRONG):
        await session.take(json.dumps(request))
    rows = Batch(pl.DataFrame({"symbol": ["A"], "ts": [datetime(2026, 2, 27, tzinfo=UTC)]}))
    for channel in Channel:
        interval = "1m" if channel in (Channel.BARS, Channel.INDICATORS) else ""
        detail = {Channel.MOVERS: "5", Channel.INDICATORS: "rsi(14)"}.get(channel, "")
        message = Message((channel, interval, detail), Change.CLOSED, 7, rows)
        sent.append([json.loads(message.encoded(FORMATS["json"]))])
    sent.append([told_missed(Missed(Channel.TICKS, 1, 2, 3))])
    frames = validator("frames")
    for frame in sent:
        assert frames.is_valid(frame), frame
    assert {message["type"] for frame in sent for message in frame} >= {
        *("welcome", "subscribed", "unsubscribed", "data", "missed", "pong", "error")
    }
