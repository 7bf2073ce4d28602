"""Alpaca's replies and messages as frames: recorded ones, all forms of them, and any other JSON."""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.fakes.alpaca import nanos
from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS, kind_of
from stockpulse.providers.alpaca.actions import ACTIONS, actions_in
from stockpulse.providers.alpaca.encoding import Json, MessagePack
from stockpulse.providers.alpaca.replies import bars_in, bars_in_snapshots, frames_of, ticks_of, trades_in
from stockpulse.providers.faults import BadReply

TESTS = Path(__file__).parents[2]
REAL = Path(os.environ.get("STOCKPULSE_REAL_DATA", TESTS.parents[1] / "shared" / "data")) / "payloads" / "alpaca"
OURS = TESTS / "data" / "payloads" / "alpaca"
RECORDED = sorted([*OURS.glob("*.json"), *REAL.glob("*.json")])


SNAPSHOT = ("minuteBar", "prevDailyBar", "dailyBar")


def clean(frame, schema):
    """The frame, all of whose rows could be read."""
    assert frame.schema == schema
    return frame


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parts[-4]}-{path.name}")
def test_recorded_replies(path):
    reply = orjson.loads(path.read_bytes())
    if "bars" in reply:
        bars = clean(bars_in(reply, "1d"), BARS)
        sent = [bar for some in reply["bars"].values() for bar in (some if isinstance(some, list) else [some])]
        assert bars["close"].to_list() == [bar["c"] for bar in sent]
        assert [micros_of(bar["t"]) for bar in sent] == bars["ts"].to_physical().to_list()
        assert (bars["high"] >= bars["low"]).all()
    elif "trades" in reply:
        rows = [row for some in reply["trades"].values() for row in (some if isinstance(some, list) else [some])]
        ticks = clean(ticks_of(trades_in(reply)), TICKS)
        assert ticks["price"].to_list() == [row["p"] for row in rows if row.get("u") != "canceled"]
        assert set(ticks["tape"]) <= {"A", "C"}
    elif "corporate_actions" in reply:
        actions = clean(actions_in(reply), ACTIONS)
        assert actions["kind"].unique(maintain_order=True).to_list() == list(reply["corporate_actions"])
        assert actions.select("symbol", "process_date").null_count().row(0) == (0, 0)
    else:
        bars = clean(bars_in_snapshots(reply), BARS)
        sent = [snapshot[name] for snapshot in reply.values() if snapshot for name in SNAPSHOT if snapshot.get(name)]
        assert len(sent) >= 3
        assert bars["close"].to_list() == [bar["c"] for bar in sent]


def micros_of(text):
    return nanos(text) // 1000


BAR = {"t": "2026-07-14T13:30:00Z", "o": 231, "h": 232, "l": 230.5, "c": 231.5, "v": 10, "n": 2, "vw": 231.25}
TRADE = {"t": "2026-07-14T14:05:07.208Z", "x": "V", "p": 231.88, "s": 100, "c": ["@"], "i": 1, "z": "C"}


class TestForms:
    @pytest.mark.parametrize(
        "reply",
        [
            {"bars": {"A": [BAR]}, "next_page_token": None},
            {"bars": [BAR], "symbol": "A", "next_page_token": None},
            {"bars": {"A": BAR}},
            {"bar": BAR, "symbol": "A"},
            {"bars": {"A": [BAR], "B": None}, "currency": "JPY"},
        ],
    )
    def test_bars(self, reply):
        bars = bars_in(orjson.loads(orjson.dumps(reply)), "1m")
        assert bars.row(0) == (
            "A",
            "1m",
            datetime(2026, 7, 14, 13, 30, tzinfo=UTC),
            231.0,
            232.0,
            230.5,
            231.5,
            10.0,
            2,
            231.25,
        )

    @pytest.mark.parametrize("reply", [{"trades": {"A": [TRADE]}}, {"symbol": "A", "trade": TRADE}])
    def test_trades(self, reply):
        assert ticks_of(trades_in(orjson.loads(orjson.dumps(reply))))["symbol"].to_list() == ["A"]

    @pytest.mark.parametrize(
        "reply",
        [
            {"bars": None, "next_page_token": None},
            {"bars": {}},
            {"bars": []},
            {"bars": None, "symbol": "TSLA"},
            {},
        ],
    )
    def test_empty(self, reply):
        assert bars_in(reply, "1m").shape == (0, len(BARS))

    @pytest.mark.parametrize(
        "reply",
        [
            {"A": {"minuteBar": BAR, "dailyBar": BAR, "prevDailyBar": None}, "B": None},
            {"symbol": "A", "minuteBar": BAR, "dailyBar": BAR},
            {"snapshots": {"A": {"minuteBar": BAR, "dailyBar": BAR}}},
        ],
    )
    def test_snapshots(self, reply):
        assert bars_in_snapshots(reply).select("symbol", "interval").rows() == [("A", "1m"), ("A", "1d")]

    @pytest.mark.parametrize("reply", [None, 7, [], "x", {"bars": 7}, {"bars": "x"}])
    def test_other_shapes_are_faults(self, reply):
        with pytest.raises(BadReply):
            bars_in(reply, "1m")

    def test_a_bar_without_volume_has_no_vwap(self):
        bars = bars_in({"bars": {"A": [BAR | {"v": 0, "n": 0, "vw": 0}]}}, "1m")
        assert bars.select("volume", "trade_count", "vwap").row(0) == (0.0, 0, None)

    def test_a_bar_may_lack_the_number_of_trades_and_the_vwap(self):
        few = {name: value for name, value in BAR.items() if name not in ("n", "vw")}
        assert bars_in({"bars": {"A": [few]}}, "1m").select("trade_count", "vwap").row(0) == (None, None)


class TestOrderOfCorrections:
    def test_a_right_trade_may_be_cancelled_in_its_turn(self):
        correction = {"T": "c", "S": "A", "x": "V", "oi": 1, "ci": 2, "cp": 5, "cs": 1, "cc": [], "t": TRADE["t"]}
        cancel = {"T": "x", "S": "A", "x": "V", "i": 2, "p": 5, "s": 1, "a": "C", "t": TRADE["t"], "z": "C"}
        first = {"T": "x", "S": "A", "x": "V", "i": 7, "p": 5, "s": 1, "a": "E", "t": TRADE["t"], "z": "C"}
        (frame,) = frames_of([first, correction, cancel])
        assert frame.schema == CORRECTIONS
        assert frame["trade_id"].to_list() == ["7", "1", "2"]
        assert frame["price"].to_list() == [None, 5.0, None]

    def test_trades_come_before_their_corrections(self):
        cancel = {"T": "x", "S": "A", "x": "V", "i": 1, "a": "C", "t": TRADE["t"]}
        kinds = [
            kind_of(frame) for frame in frames_of([cancel, {"T": "b", "S": "A", **BAR}, {"T": "t", "S": "A", **TRADE}])
        ]
        assert kinds == ["ticks", "corrections", "bars"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.fixed_dictionaries(
    {"T": st.sampled_from("tbudcxqsli") | JSON},
    optional=dict.fromkeys(("S", "t", "p", "s", "c", "i", "x", "z", "o", "h", "l", "v", "n", "oi", "cp", "cs"), JSON),
)


@given(st.lists(MESSAGES, max_size=6))
def test_no_message_ends_the_stream(messages):
    for frame in frames_of(messages):
        schema = {"ticks": TICKS, "bars": BARS, "corrections": CORRECTIONS}[kind_of(frame)]
        assert dict(list(frame.schema.items())[: len(schema)]) == dict(schema)


@given(JSON)
def test_no_reply_raises_anything_but_a_fault(reply):
    for read in (lambda: bars_in(reply, "1m"), lambda: trades_in(reply), lambda: bars_in_snapshots(reply)):
        with contextlib.suppress(BadReply):
            read()


class TestEncodings:
    @pytest.mark.parametrize(
        "text", ["2026-07-14T14:05:07.086175744Z", "2026-07-14T14:05:07Z", "1969-12-31T23:59:59.5Z"]
    )
    def test_times_in_messagepack_are_exact(self, text):
        stamp = msgpack.Timestamp(*divmod(nanos(text), 1_000_000_000))
        assert MessagePack().loads(msgpack.packb([{"t": stamp}])) == [{"t": nanos(text)}]

    @given(st.binary(max_size=40))
    def test_any_bytes_are_read_or_refused(self, frame):
        for encoding in (Json(), MessagePack()):
            with contextlib.suppress(ValueError):
                encoding.loads(frame)

    def test_deep_nesting_is_refused(self):
        for encoding, frame in ((Json(), b"[" * 100_000), (MessagePack(), b"\x91" * 100_000)):
            with pytest.raises(ValueError, match=r".+"):
                encoding.loads(frame)
