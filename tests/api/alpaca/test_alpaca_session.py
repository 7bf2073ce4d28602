"""The conversation of Alpaca's stream: authentication, subscriptions, errors."""

from typing import Any

import msgpack
import pytest

from stockpulse.api.alpaca.stream.encodings import JSON, MESSAGE_PACK
from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.api.alpaca.stream.session import Session
from stockpulse.api.alpaca.stream.subscriptions import STOCK_CHANNELS, TEST_CHANNELS

AUTH = {"action": "auth", "key": "key", "secret": "secret"}


def session(*messages: Any, channels: tuple[str, ...] = STOCK_CHANNELS) -> Session:
    """Return an authenticated session after some messages."""
    found = Session(channels, authenticated=True)
    for message in messages:
        found.take(message)
    return found


def refused(one: Session, message: object) -> tuple[int, str]:
    with pytest.raises(StreamError) as raised:
        one.take(message)
    error = raised.value.message()
    assert error["T"] == "error"
    return error["code"], error["msg"]


def test_any_key_is_accepted_once() -> None:
    one = Session(STOCK_CHANNELS, authenticated=False)
    assert refused(one, {"action": "subscribe", "bars": ["AAPL"]}) == (401, "not authenticated")
    assert refused(one, {"action": "auth", "key": "key"}) == (402, "auth failed")
    assert one.take(AUTH) == {"T": "success", "msg": "authenticated"}
    assert refused(one, AUTH) == (403, "already authenticated")


def test_subscriptions_add_up_and_every_answer_has_all_of_them() -> None:
    one = session({"action": "subscribe", "trades": ["msft"], "bars": ["AAPL"]})
    answer = one.take({"action": "subscribe", "trades": ["AAPL", "BRK.B"], "bars": ["*"]})
    assert answer == {
        "T": "subscription",
        "trades": ["AAPL", "BRK.B", "MSFT"],
        "quotes": [],
        "bars": ["*", "AAPL"],
        "updatedBars": [],
        "dailyBars": [],
        "statuses": [],
        "lulds": [],
        "imbalances": [],
        "corrections": ["AAPL", "BRK.B", "MSFT"],
        "cancelErrors": ["AAPL", "BRK.B", "MSFT"],
    }
    answer = one.take({"action": "unsubscribe", "trades": ["AAPL", "TSLA"], "bars": ["*"]})
    assert (answer["trades"], answer["bars"]) == (["BRK.B", "MSFT"], ["AAPL"])


def test_the_library_for_go_sends_every_channel() -> None:
    names = (
        "trades",
        "quotes",
        "bars",
        "updatedBars",
        "dailyBars",
        "statuses",
        "lulds",
        "news",
        "orderbooks",
        "pricing",
    )
    answer = session().take({"action": "subscribe"} | dict.fromkeys(names) | {"trades": ["AAPL"], "news": []})
    assert answer["trades"] == ["AAPL"]


def test_the_test_feed_has_three_channels() -> None:
    one = session(channels=TEST_CHANNELS)
    answer = one.take({"action": "subscribe", "trades": ["FAKEPACA"]})
    assert answer == {"T": "subscription", "trades": ["FAKEPACA"], "quotes": [], "bars": []}
    assert refused(one, {"action": "subscribe", "dailyBars": ["FAKEPACA"]})[0] == 410


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (None, 400),
        ([], 400),
        ({}, 400),
        ({"action": 1}, 400),
        ({"action": "listen"}, 400),
        ({"action": "subscribe", "trades": "AAPL"}, 400),
        ({"action": "subscribe", "trades": [1]}, 400),
        ({"action": "subscribe", "trades": ["A APL"]}, 400),
        ({"action": "subscribe", "trades": ["*", "MSFT"], "news": ["*"]}, 410),
        ({"action": "subscribe", "trades": [f"S{at}" for at in range(20_001)]}, 405),
    ],
)
def test_a_refused_message_changes_nothing(message: object, code: int) -> None:
    one = session({"action": "subscribe", "trades": ["AAPL"]})
    before = one.subscriptions
    assert refused(one, message)[0] == code
    assert one.subscriptions == before


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        (JSON, "{"),
        (JSON, b"\xff"),
        (MESSAGE_PACK, "{}"),
        (MESSAGE_PACK, b""),
        (MESSAGE_PACK, b"\xc1"),
        (MESSAGE_PACK, b"\x91" * 100_000),
        (MESSAGE_PACK, msgpack.packb({"action": "auth"}) + b"\x00"),
    ],
)
def test_what_cannot_be_read_is_invalid_syntax(encoding: Any, data: bytes | str) -> None:
    with pytest.raises(StreamError, match="invalid syntax"):
        encoding.read(data)
