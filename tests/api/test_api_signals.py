"""Signals and the screener out of the real app on a real database, against rules that are evaluated directly."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np
import polars as pl
import pytest
from analytics_market import MINUTE, frame, get, send, tick, until, walk

from stockpulse.errors import CannotStart
from stockpulse.market.calendars import trading_calendar
from stockpulse.settings import load_settings
from stockpulse.storage.signals import SERVED_SIGNALS

START = datetime(2025, 11, 28, 12, tzinfo=UTC)
CANDLE = {"candle": {"buy": "close > open", "sell": "close < open"}}


@pytest.fixture(scope="module", autouse=True)
def _calendar_made():
    """Not first while the app does the same in a thread: filters of warnings are shared by all threads."""
    trading_calendar("XNYS")


def prices(*legs):
    """From 200 on, legs of (minutes, change of each)."""
    return (200 + np.cumsum([change for minutes, change in legs for _ in range(minutes)])).tolist()


#: A rise with a dip that is bought, a fall with a jump that is sold, and a quiet end.
DIP = prices((70, 1), (14, -3), (60, -1), (16, 3), (30, 0.25))
#: The other way round: first the sale.
JUMP = prices((70, -1), (14, 3), (60, 1), (16, -3), (10, 0.25))


def minutes_of(symbol, closes, step=MINUTE):
    """A trade in the middle of each minute, which closes the minute before."""
    return [tick(symbol, START + i * step + MINUTE / 2, price) for i, price in enumerate(closes)]


def sma(closes, period):
    means = [np.mean(closes[i - period + 1 : i + 1]) for i in range(period - 1, len(closes))]
    return np.array([np.nan] * (period - 1) + means)


def rsi(closes, period=14):
    """Wilder's, as he wrote it."""
    changes = np.diff(closes)
    gain, loss = (np.maximum(sign * changes, 0) for sign in (1, -1))
    up, down = gain[:period].mean(), loss[:period].mean()
    values = [np.nan] * period
    for i in range(period - 1, len(changes)):
        if i >= period:
            up, down = ((period - 1) * old + new for old, new in ((up, gain[i]), (down, loss[i])))
            up, down = up / period, down / period
        values.append(100 * up / (up + down))
    return np.array(values)


def rule_of_the_default(closes):
    closes = np.array(closes)
    quick, slow, strength = sma(closes, 20), sma(closes, 50), rsi(closes)
    with np.errstate(invalid="ignore"):
        buy, sell = (quick > slow) & (strength < 30), (quick < slow) & (strength > 70)
    return np.where(buy, "BUY", np.where(sell, "SELL", "HOLD")).tolist()


async def signals_settled(client, total):
    async def there():
        return (await get(client, "/signals"))["total"] == total

    await until(there)


async def signals_of(client, path="/signals", **params):
    return (await get(client, path, limit=10_000, **params))["signals"]


@pytest.fixture
async def market(compiled, client):
    """DIP/USD and JUMP/USD, a trade a minute; the last bar of each is forming."""
    await send(client, minutes_of("DIP/USD", DIP))
    await send(client, minutes_of("JUMP/USD", JUMP), provider="other")
    await signals_settled(client, len(DIP) + len(JUMP) - 2)
    return client


# --- signals -----------------------------------------------------------------------------------


async def test_what_the_default_rule_says_of_each_closed_bar(market):
    for symbol, closes in (("DIP/USD", DIP), ("JUMP/USD", JUMP)):
        expected = rule_of_the_default(closes[:-1])
        assert {"BUY", "SELL", "HOLD"} == set(expected)
        rows = (await signals_of(market, f"/signals/{symbol}"))[::-1]
        assert [row["signal"] for row in rows] == expected
        assert [row["price"] for row in rows] == closes[:-1]
        bars = (await frame(market, f"/data/{symbol}", interval="1m")).filter("final")
        assert [datetime.fromisoformat(row["timestamp"]) for row in rows] == bars["ts"].to_list()
        assert [row["revision"] for row in rows] == bars["revision"].cum_max().to_list()
        assert {(row["symbol"], row["rule"], row["interval"]) for row in rows} == {(symbol, "sma_rsi", "1m")}
        # The bar that is forming has no signal.
        assert bars.height == len(closes) - 1


async def test_the_documented_shape(market):
    for path in ("/signals?limit=10", "/signals/DIP/USD?limit=5", "/api/v1/signals", "/api/signals/dip/usd"):
        body = (await market.get(path)).json()
        assert list(body) == ["total", "signals"]
        assert list(body["signals"][0]) == list(SERVED_SIGNALS)
        assert {"symbol", "timestamp", "signal", "price"} <= set(body["signals"][0])
        assert len(body["signals"]) == min(body["total"], {"10": 10, "5": 5}.get(path.rpartition("=")[2], 100))


@pytest.mark.thorough
async def test_the_total_counts_all_that_match_and_not_the_page(market):
    said = {"DIP/USD": rule_of_the_default(DIP[:-1]), "JUMP/USD": rule_of_the_default(JUMP[:-1])}
    both = [one for signals in said.values() for one in signals]
    for limit in (1, 7, 10_000):
        body = await get(market, "/signals", limit=limit)
        assert (body["total"], len(body["signals"])) == (len(both), min(limit, len(both)))
        for kind in ("BUY", "SELL", "HOLD"):
            body = await get(market, "/signals", limit=limit, signal=kind)
            assert (body["total"], len(body["signals"])) == (both.count(kind), min(limit, both.count(kind)))
            assert {row["signal"] for row in body["signals"]} == {kind}
            for symbol, signals in said.items():
                body = await get(market, f"/signals/{symbol}", limit=limit, signal=kind, rule="sma_rsi")
                assert (body["total"], len(body["signals"])) == (signals.count(kind), min(limit, signals.count(kind)))
                assert {(row["symbol"], row["signal"]) for row in body["signals"]} == {(symbol, kind)}


async def test_newest_first_and_then_by_symbol(market):
    rows = await signals_of(market)
    keys = [(-datetime.fromisoformat(row["timestamp"]).timestamp(), row["symbol"], row["rule"]) for row in rows]
    assert keys == sorted(keys)
    assert (await get(market, "/signals", limit=3))["signals"] == rows[:3]
    in_tokyo = (await get(market, "/signals", limit=1, tz="Asia/Tokyo"))["signals"][0]
    assert in_tokyo["timestamp"].endswith("+09:00")


async def test_filters_that_nothing_matches(market):
    for query in ("rule=nope", "rule=SMA_RSI", "rule=%27;--", "rule=" + "a" * 64, "rule=1", "rule="):
        for path in ("/signals", "/signals/DIP/USD"):
            answer = await market.get(f"{path}?{query}")
            assert (answer.status_code, answer.json()) == (200, {"total": 0, "signals": []}), (query, answer.text)


async def test_a_rule_with_a_zero_byte_in_its_name(market):
    """There is no signal, and there cannot be one."""
    assert (await market.get("/signals?rule=%00")).status_code in (200, 422)


@pytest.mark.thorough
async def test_what_is_not_taken(market):
    for path in ("/signals", "/signals/DIP/USD"):
        for query, field in (
            *((f"limit={value}", "limit") for value in ("0", "-1", "10001", "1e3", "nan", "ten", "")),
            *((f"signal={value}", "signal") for value in ("buy", "KEEP", "", "1", "%00", "BUY,SELL")),
            ("rule=" + "a" * 65, "rule"),
            ("format=xml", "format"),
            ("tz=Mars/Olympus", "tz"),
        ):
            answer = await market.get(f"{path}?{query}")
            assert answer.status_code == 422, (query, answer.text)
            error = answer.json()["error"]
            details = error["details"] if isinstance(error["details"], list) else [error["details"]]
            assert [one["field"] for one in details] == [field], query
    for symbol in ("NOPE", "DIP", "DIP/USD/X", "%00"):
        answer = await market.get(f"/signals/{symbol}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_the_four_formats_say_the_same(market):
    for path, key, time in (
        ("/signals?limit=50", "signals", "timestamp"),
        ("/signals/DIP/USD?signal=BUY", "signals", "timestamp"),
        ("/signals?rule=nope", "signals", "timestamp"),
        ("/screen?where=sma(20) < 1e6 or volume > 0&interval=1m", "matches", "ts"),
        ("/screen?where=close < 0", "matches", "ts"),
    ):
        by_format = {
            name: await market.get(f"{path}{'&' if '?' in path else '?'}format={name}")
            for name in ("json", "csv", "arrow", "parquet")
        }
        assert {answer.status_code for answer in by_format.values()} == {200}
        arrow = pl.read_ipc_stream(by_format["arrow"].content)
        assert pl.read_parquet(by_format["parquet"].content).equals(arrow)
        rows = [row | {time: datetime.fromisoformat(row[time])} for row in by_format["json"].json()[key]]
        assert rows == arrow.to_dicts()
        csv = pl.read_csv(by_format["csv"].content, schema_overrides=dict.fromkeys(arrow.columns, pl.String))
        assert csv.columns == arrow.columns
        assert csv.height == arrow.height
    answer = await market.get("/signals/DIP/USD?format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="DIP_USD_signals.csv"'
    answer = await market.get("/signals?format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="all_signals.csv"'


@pytest.mark.thorough
async def test_the_view_of_signals(market, postgres_dsn):
    connection = await asyncpg.connect(postgres_dsn)
    rows = await connection.fetch("SELECT * FROM stock_signals ORDER BY ts DESC, symbol, rule")
    await connection.close()
    assert [(row["symbol"], row["ts"], row["signal"], row["price"], row["rule"], row["interval"]) for row in rows] == [
        (
            row["symbol"],
            datetime.fromisoformat(row["timestamp"]),
            *(row[n] for n in ("signal", "price", "rule", "interval")),
        )
        for row in await signals_of(market)
    ]


async def test_a_late_trade_changes_the_signals_that_follow(market):
    before = (await signals_of(market, "/signals/DIP/USD"))[::-1]
    closes = [*DIP]
    closes[100] = 10.0
    await send(market, [tick("DIP/USD", START + 100 * MINUTE + timedelta(seconds=45), 10.0)])

    async def revised():
        rows = (await signals_of(market, "/signals/DIP/USD"))[::-1]
        pairs = zip(rows[100:], before[100:], strict=True)
        return rows if all(new["revision"] > old["revision"] for new, old in pairs) else None

    after = await until(revised)
    assert after[:100] == before[:100]
    assert [row["signal"] for row in after] == rule_of_the_default(closes[:-1])
    assert [row["price"] for row in after] == closes[:-1]
    assert [row["signal"] for row in after] != [row["signal"] for row in before]
    assert (await get(market, "/signals"))["total"] == len(DIP) + len(JUMP) - 2


# --- rules of the user -------------------------------------------------------------------------


async def test_no_signals_before_there_is_a_closed_bar(compiled, client):
    assert await get(client, "/signals") == {"total": 0, "signals": []}
    await send(client, [tick("AAPL", START, 1.0)])
    assert await get(client, "/signals/AAPL") == {"total": 0, "signals": []}


async def test_rules_of_ones_own_on_another_interval(compiled, serve, postgres_dsn):
    rules = {
        "cross": {"buy": "ema(3) > ema(8)", "sell": "ema(3) < ema(8)"},
        "both": {"buy": "close > 0", "sell": "close > 0"},
        "a-1_b": {"buy": "bb_upper(5, 1) < close", "sell": "macd_signal(3, 6, 2) < 0 and not rsi(5) > 50"},
    }
    async with serve(postgres_dsn, signal_rules=rules, signal_interval="5Min") as client:
        await send(client, minutes_of("DIP/USD", DIP, 2 * MINUTE))
        types = "ema(3),ema(8),bollinger(5,1),macd(3,6,2),rsi(5)"
        values = (await frame(client, "/indicators/DIP/USD", type=types, interval="5m")).filter("final")
        await signals_settled(client, 3 * values.height)
        expected = {"cross": [], "both": [], "a-1_b": []}
        for row in values.to_dicts():
            quick, slow = row["ema_3"], row["ema_8"]
            known = quick is not None and slow is not None and quick != slow
            expected["cross"].append(("BUY" if quick > slow else "SELL") if known else "HOLD")
            expected["both"].append("HOLD")
            buy = row["bb_upper"] is not None and row["bb_upper"] < row["close"]
            sell = None not in (row["macd_signal"], row["rsi"]) and row["macd_signal"] < 0 and not row["rsi"] > 50
            expected["a-1_b"].append("HOLD" if buy == sell else "BUY" if buy else "SELL")
        for rule, signals in expected.items():
            rows = (await signals_of(client, rule=rule))[::-1]
            assert [row["signal"] for row in rows] == signals
            assert {(row["rule"], row["interval"]) for row in rows} == {(rule, "5m")}
            assert [datetime.fromisoformat(row["timestamp"]) for row in rows] == values["ts"].to_list()
        assert {"BUY", "SELL", "HOLD"} == set(expected["cross"])
        assert {"BUY", "SELL"} <= set(expected["a-1_b"])


@pytest.mark.thorough
async def test_a_rule_without_any_indicator(compiled, serve, postgres_dsn):
    random = np.random.default_rng(5)
    closes = np.round(100 + np.cumsum(random.integers(-1, 2, 200)), 2).tolist()
    rows = [tick("AAPL", START + i * timedelta(seconds=30), price) for i, price in enumerate(closes)]
    async with serve(postgres_dsn, signal_rules=CANDLE) as client:
        await send(client, rows)
        await signals_settled(client, 99)
        expected = [
            "BUY" if second > first else "SELL" if second < first else "HOLD"
            for first, second in zip(closes[:198:2], closes[1:198:2], strict=True)
        ]
        assert {"BUY", "SELL", "HOLD"} == set(expected)
        assert [row["signal"] for row in (await signals_of(client))[::-1]] == expected
    async with serve(postgres_dsn, signal_rules=CANDLE) as client:  # and its state survives
        await send(client, [tick("AAPL", START + m * MINUTE, 100.0) for m in (101.5, 102.5)])
        await signals_settled(client, 101)


async def test_without_rules_there_are_no_signals(compiled, serve, postgres_dsn):
    async with serve(postgres_dsn, signal_rules={}) as client:
        await send(client, minutes_of("DIP/USD", DIP))

        async def calculated():
            return (await get(client, "/analytics/DIP/USD"))["intraday"]

        await until(calculated)
        assert await get(client, "/signals") == {"total": 0, "signals": []}
        assert (await get(client, "/health"))["status"] == "ok"


async def test_signals_of_days(compiled, serve, postgres_dsn):
    async with serve(postgres_dsn, signal_rules=CANDLE, signal_interval="1d") as client:
        await send(client, walk(days=30))
        await signals_settled(client, 29)
        bars = (await frame(client, "/data/BTC/USD")).filter("final")
        rows = (await signals_of(client))[::-1]
        ups = (bars["close"] > bars["open"]).to_list()
        assert [row["signal"] for row in rows] == ["BUY" if up else "SELL" for up in ups]
        assert {row["interval"] for row in rows} == {"1d"}


async def test_signals_of_a_rule_that_is_gone_stay(compiled, serve, postgres_dsn):
    async with serve(postgres_dsn, signal_rules=CANDLE) as client:
        await send(client, minutes_of("AAPL", [1.0, 2.0, 3.0]))
        await signals_settled(client, 2)
    flipped = {"other": {"buy": "close < 0", "sell": "close > 0"}}
    async with serve(postgres_dsn, signal_rules=flipped) as client:
        assert (await get(client, "/signals", rule="candle"))["total"] >= 2
        await send(client, [tick("AAPL", START + m * MINUTE, 9.0) for m in (10.5, 11.5)])

        async def there():
            rows = await signals_of(client, rule="other")
            return rows if rows and rows[0]["timestamp"] == "2025-11-28T12:10:00Z" else None

        rows = await until(there)
        assert {row["signal"] for row in rows} == {"SELL"}
        assert len(rows) == 4  # of the bars that were there before it, too


# --- rules that are wrong ----------------------------------------------------------------------

WRONG = [
    ("not json", None),
    ("[]", None),
    ('{"a": 1}', None),
    ('{"a": {"buy": "close > 1"}}', None),
    ('{"a": {"buy": "close > 1", "sell": "close < 1", "hold": "close == 1"}}', None),
    ('{"A": {"buy": "close > 1", "sell": "close < 1"}}', "digits, - and _; 'A' is not one"),
    ('{"": {"buy": "close > 1", "sell": "close < 1"}}', "takes names of lower-case letters"),
    ('{"a b": {"buy": "close > 1", "sell": "close < 1"}}', "takes names of lower-case letters"),
    ('{"a": {"buy": "sma(20) >", "sell": "close < 1"}}', "a.buy: column 10: found the end"),
    ('{"a": {"buy": "close > 1", "sell": "smaa(20) > 1"}}', "a.sell: column 1: found 'smaa'"),
    ('{"a": {"buy": "close > 1", "sell": "close > 1 and rsi(0) < 30"}}', "a.sell: column 19: period: got 0"),
    ('{"a": {"buy": "close", "sell": "close < 1"}}', "a.buy: column 1: found a number alone"),
    ('{"a": {"buy": "", "sell": "close < 1"}}', "a.buy: column 1: found the end"),
]  # fmt: skip


class TestWrongRules:
    @pytest.fixture(autouse=True)
    def _external(self, tmp_path, monkeypatch):
        """No `.env` of the checkout."""
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(("value", "said"), WRONG)
    def test_are_refused_with_the_name_of_the_variable(self, monkeypatch, value, said):
        monkeypatch.setenv("STOCKPULSE_SIGNAL_RULES", value)
        with pytest.raises(CannotStart) as refused:
            load_settings()
        message = str(refused.value)
        assert message.startswith("STOCKPULSE_SIGNAL_RULES: got ")
        assert len(message) < 600
        assert "\n" not in message.partition("\n  ")[0]
        if said is not None:
            assert said in message

    def test_the_spot_is_pointed_at(self, monkeypatch):
        text = "sma(20) > sma(50) and rsi(14) << 30"
        rules = {"mine": {"buy": text, "sell": "close < 1"}}
        monkeypatch.setenv("STOCKPULSE_SIGNAL_RULES", json.dumps(rules))
        with pytest.raises(CannotStart) as refused:
            load_settings()
        first, shown, caret = str(refused.value).splitlines()
        assert "mine.buy: column 32: found '<'" in first
        assert shown.strip() == text
        assert shown[caret.index("^")] == "<"
        assert shown.index("<") + 1 == caret.index("^")

    @pytest.mark.parametrize("value", ["2m", "1h", "1w", "", "often", "1M"])
    def test_intervals_that_are_not_taken(self, monkeypatch, value):
        monkeypatch.setenv("STOCKPULSE_SIGNAL_INTERVAL", value)
        if value == "":  # as compose passes variables that are not set
            assert load_settings().signal_interval == "1m"
            return
        with pytest.raises(CannotStart) as refused:
            load_settings()
        assert str(refused.value) == f"STOCKPULSE_SIGNAL_INTERVAL: got {value!r}; takes 1m, 5m or 1d"

    def test_more_than_twenty(self, monkeypatch):
        rule = {"buy": "close > 1", "sell": "close < 1"}
        for count in (20, 21):
            monkeypatch.setenv("STOCKPULSE_SIGNAL_RULES", json.dumps({f"r{i}": rule for i in range(count)}))
            if count == 20:
                assert len(load_settings().signal_rules) == 20
            else:
                with pytest.raises(CannotStart, match=r"^STOCKPULSE_SIGNAL_RULES: got "):
                    load_settings()

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_stop_the_start_with_nothing_but_that(self):
        wrong = {
            "STOCKPULSE_SIGNAL_RULES": '{"a": {"buy": "close > smaa(20)", "sell": "close < 1"}}',
            "STOCKPULSE_DATA_DIR": str(Path("never").resolve()),
        }
        command = [sys.executable, "-m", "stockpulse", "serve"]
        ended = subprocess.run(command, env=os.environ | wrong, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (1, "")
        first, shown, caret = ended.stderr.splitlines()
        assert first.startswith("stockpulse: STOCKPULSE_SIGNAL_RULES: got ")
        assert "a.buy: column 9: found 'smaa'" in first
        assert shown[caret.index("^") :] == "smaa(20)"
        assert not Path("never").exists()


# --- the screener ------------------------------------------------------------------------------


@pytest.fixture
async def many(compiled, client):
    """Symbols with different histories: five long ones, a short one, and one with the calendar of an exchange."""
    for seed in range(5):
        await send(client, walk(f"W{seed}/USD", seed=seed, days=80), provider=f"p{seed}")
    await send(client, walk("SHORT/USD", seed=9, days=10), provider="short")
    day = datetime(2025, 11, 3, 15, tzinfo=UTC)
    rows = [tick("AAPL", day + timedelta(days=i, minutes=m), 100.0 + i + m) for i in range(40) for m in range(2)]
    await send(client, rows, provider="stock")
    return client


NAMES = ["AAPL", "SHORT/USD", *(f"W{seed}/USD" for seed in range(5))]
TYPES = "sma(20),sma(50),rsi(14),macd(12,26,9),vwap"
CONDITIONS = {
    "close > sma(20)": lambda row: row["close"] > row["sma_20"],
    "sma(20) > sma(50) and rsi(14) < 60": lambda row: row["sma_20"] > row["sma_50"] and row["rsi"] < 60,
    "not sma(20) > sma(50)": lambda row: row["sma_20"] <= row["sma_50"],
    "macd > macd_signal or rsi > 55": lambda row: row["macd"] > row["macd_signal"] or row["rsi"] > 55,
    "close * 2 - vwap >= close": lambda row: row["close"] * 2 - row["vwap"] >= row["close"],
    "volume > 100": lambda row: row["volume"] > 100,
    "close > open": lambda row: row["close"] > row["open"],
    "high - low < 1.5": lambda row: row["high"] - row["low"] < 1.5,
    "1 < 2": lambda row: True,
    "1 > 2": lambda row: False,
}


@pytest.mark.thorough
async def test_matches_are_those_of_a_direct_evaluation(many):
    found = set()
    for interval in ("1m", "5m", "1d"):
        newest = {}
        for name in NAMES:
            (bar,) = (await get(many, f"/ohlc/{name}", interval=interval, limit=1))["bars"]
            (values,) = (await get(many, f"/indicators/{name}", interval=interval, type=TYPES, limit=1))["values"]
            newest[name] = {key: np.nan if value is None else value for key, value in (bar | values).items()}
        for where, holds in CONDITIONS.items():
            body = await get(many, "/screen", where=where, interval=interval)
            assert list(body) == ["where", "interval", "count", "matches"]
            assert (body["where"], body["interval"], body["count"]) == (where, interval, len(body["matches"]))
            expected = [name for name, row in newest.items() if holds(row)]
            assert sorted(match["symbol"] for match in body["matches"]) == expected, (where, interval)
            found.add((where, len(expected)))
            for match in body["matches"]:
                row = newest[match["symbol"]]
                assert (match["ts"], match["final"]) == (row["ts"], row["final"])
                assert match["close"] == row["close"]
    assert len({count for _, count in found}) > 3  # it is not always all of them, or none


async def test_the_values_that_the_condition_speaks_of_are_shown(many):
    where = "sma( 20 ) > 0 and MACD_Signal(12,26,signal=9) < 1e9 and volume > 0 and rsi > 0 and bb_upper(20, 2.5) > 0"
    body = await get(many, "/screen", where=where, interval="5m")
    types = "sma(20),macd(12,26,9),rsi(14),bollinger(20,2.5)"
    assert body["count"] == len(NAMES)
    for match in body["matches"]:
        names = ["close", "volume", "sma(20)", "macd_signal(12, 26, 9)", "rsi(14)", "bb_upper(20, 2.5)"]
        assert list(match) == ["symbol", "ts", "final", *names]
        (row,) = (await get(many, f"/indicators/{match['symbol']}", type=types, interval="5m", limit=1))["values"]
        for name, column in zip(names[2:], ("sma", "macd_signal", "rsi", "bb_upper"), strict=True):
            assert match[name] == pytest.approx(row[column], rel=1e-9)


async def test_symbols_with_too_little_history_match_nothing(many):
    for where in ("sma(100) > 0", "sma(100) <= 0", "not sma(100) > 0", "not not sma(100) > 0 or sma(100) != sma(100)"):
        assert await get(many, "/screen", where=where) == {"where": where, "interval": "1d", "count": 0, "matches": []}
    body = await get(many, "/screen", where="sma(100) > 0 or close > 0")
    assert {match["symbol"]: match["sma(100)"] for match in body["matches"]} == dict.fromkeys(NAMES)


async def test_matches_come_by_symbol(many):
    body = await get(many, "/screen", where="close > 0")
    assert [match["symbol"] for match in body["matches"]] == NAMES


async def test_the_newest_bar_may_be_forming(many):
    before = (await get(many, "/screen", where="close > 0", interval="1m"))["matches"]
    assert {match["final"] for match in before} == {False}
    (old,) = (match for match in before if match["symbol"] == "W4/USD")
    newest = datetime.fromisoformat(old["ts"])
    await send(many, [tick("W4/USD", newest + timedelta(seconds=50), 12_345.0)], provider="p4")
    (match,) = (await get(many, "/screen", where="close == 12345", interval="1m"))["matches"]
    assert (match["symbol"], match["close"], match["ts"]) == ("W4/USD", 12345, old["ts"])
    (match,) = (await get(many, "/screen", where="close == 12345", tz="Asia/Tokyo"))["matches"]
    assert match["ts"].endswith("T09:00:00+09:00")


async def test_a_screen_of_no_symbol_at_all(client):
    for where in ("close > 0", "sma(20) > sma(50) and rsi(14) < 30"):
        body = await get(client, "/screen", where=f" {where} ")
        assert body == {"where": where, "interval": "1d", "count": 0, "matches": []}
    empty = await frame(client, "/screen", where="sma > 0")
    assert empty.columns == ["symbol", "ts", "final", "close", "sma(20)"]


async def test_a_screen_of_more_symbols_than_are_read_at_once(client):
    names = [f"S{i:03}" for i in range(450)]
    await send(client, [tick(name, START, 1.0 + i) for i, name in enumerate(names)])
    body = await get(client, "/screen", where="close > 100 and close <= 440", interval="1m")
    assert [match["symbol"] for match in body["matches"]] == names[100:440]
    assert [match["close"] for match in body["matches"]] == [1.0 + i for i in range(100, 440)]


SPOTS = [
    ("sma(20", "column 7: found the end, expected"),
    ("smma(20) > 1", "column 1: found 'smma', expected"),
    ("close >", "column 8: found the end"),
    ("close > 1 and", "column 14: found the end"),
    ("close = 1", "write '=='"),
    ("close > 1 && open > 1", "write 'and'"),
    ("rsi(0) > 1", "column 5: period: got 0; takes a whole number from 2 to 5000"),
    ("macd(30, 20) > 1", "column 6: fast: got 30; takes no more than slow"),
    ("close", "column 1: found a number alone"),
    ("", "column 1: found the end"),
    ("1 < close < 2", "column 11: found '<' after a condition"),
    ("close > 1; DROP TABLE symbols", "column 10: found ';'"),
    ("close > \x00", "column 9: found"),
    ("(" * 60 + "close > 1" + ")" * 60, "nested 51 deep"),
    (" and ".join(f"sma({n}) > 1" for n in range(2, 40)), "at most 32 indicators"),
]


@pytest.mark.thorough
async def test_a_price_that_never_moves_gives_no_signal_and_matches_nothing(compiled, client):
    """Rounding decides no comparison: a public report had 77 times BUY in 140 bars at 0.7."""
    flat = [0.7, 0.1, 1.1, 33.33, 123.45, 0.07, 5.55, 19.99]
    rows = [tick(f"PEG{number}", START + i * MINUTE, price) for i in range(140) for number, price in enumerate(flat)]
    await send(client, rows, provider="pegs", calendar="24/7", end_of_stream=True)
    await signals_settled(client, 140 * len(flat))
    for kind, count in (("BUY", 0), ("SELL", 0), ("HOLD", 140 * len(flat))):
        assert (await get(client, "/signals", signal=kind, limit=1))["total"] == count
    computed = ("sma(20)", "ema(20)", "bb_upper", "vwap", "wma(20)", "dema(20)", "kama", "keltner_middle")
    zero = ("macd", "ppo", "awesome", "linreg_slope", "momentum", "trix", "macd_histogram")
    texts = [f"close {sign} {name}" for name in computed for sign in "<>"]
    texts += [f"{name} {sign} 0" for name in zero for sign in "<>"]
    for text in texts:
        assert (await get(client, "/screen", where=text, interval="1m"))["matches"] == [], text
    assert (await get(client, "/screen", where="close == sma(20) and macd == 0", interval="1m"))["count"] == len(flat)


async def test_screens_of_earlier_bars(compiled, client):
    closes = {"UP": [1.0, 2, 3, 4, 9], "DOWN": [9.0, 4, 3, 2, 1], "TURN": [5.0, 4, 3, 2, 8], "NEW": [1.0]}
    rows = [
        tick(name, START + i * MINUTE, one) for i in range(5) for name, of in closes.items() for one in of[i : i + 1]
    ]
    await send(client, rows, provider="few", calendar="24/7", end_of_stream=True)

    async def found(where):
        answer = await get(client, "/screen", where=where, interval="1m")
        return [one["symbol"] for one in answer["matches"]]

    assert await found("close > close[1]") == ["TURN", "UP"]
    assert await found("close[1] < close[2]") == ["DOWN", "TURN"]
    assert await found("crosses_above(close, sma(3))") == ["TURN"]
    assert await found("crosses_below(close, 1.5)") == ["DOWN"]
    assert await found("close > highest(close, 4)[1]") == ["TURN", "UP"]
    assert await found("close <= lowest(close, 5)") == ["DOWN"]
    assert await found("change_pct(4) == 800") == ["UP"]
    assert await found("not (close > close[1])") == ["DOWN"]  # of NEW it is unknown
    (match,) = (await get(client, "/screen", where="close < close[1] - 0.5", interval="1m"))["matches"]
    assert (match["symbol"], match["close"], match["close[1]"]) == ("DOWN", 1, 2)


@pytest.mark.thorough
async def test_signals_of_earlier_bars(compiled, serve, postgres_dsn):
    """They are those of a direct evaluation, also after a late trade and a restart."""
    rules = {
        "cross": {"buy": "crosses_above(close, sma(5))", "sell": "close < lowest(low, 7)[1] or change_pct(3) < -2"}
    }
    closes = np.round(100 + np.cumsum(np.random.default_rng(3).normal(0, 1, 120)), 2)
    lows = closes.copy()  # late trades are higher

    def expected():
        means = sma(closes.tolist(), 5)
        said = []
        for i, close in enumerate(closes):
            buy = i >= 5 and close > means[i] and closes[i - 1] <= means[i - 1]
            falls = (i >= 7 and close < lows[i - 7 : i].min()) or (i >= 3 and close / closes[i - 3] - 1 < -0.02)
            said.append("BUY" if buy and not falls else "SELL" if falls and not buy else "HOLD")
        return said

    async def said(client):
        async def all_of_them():
            found = await signals_of(client, "/signals/AAA")
            return found if [one["signal"] for one in reversed(found)] == expected() else None

        return await until(all_of_them, 30)

    half = len(closes) // 2
    rows = minutes_of("AAA", closes.tolist())
    async with serve(postgres_dsn, signal_rules=rules) as client:
        await send(client, rows[:half], calendar="24/7")
    async with serve(postgres_dsn, signal_rules=rules) as client:
        await send(client, rows[half:], calendar="24/7", end_of_stream=True)
        assert len(await said(client)) == len(closes)
        for at in (117, 60, 9):  # late trades change the close of a minute, and its indicators and signals
            closes[at] += 5
            late = START + at * MINUTE + 0.75 * MINUTE
            await send(client, [tick("AAA", late, float(closes[at]))], calendar="24/7")
            await said(client)


async def test_a_condition_that_is_wrong_is_pointed_at(client):
    for where, said in SPOTS:
        answer = await client.get("/screen", params={"where": where})
        assert answer.status_code == 422, (where, answer.text)
        error = answer.json()["error"]
        assert (error["code"], error["details"]) == ("INVALID_INPUT", {"field": "where"})
        assert said in error["message"], (where, error["message"])
        first, shown, caret = error["message"].split("\n")
        assert first.startswith("where: column ")
        column = int(first.split()[2].rstrip(":"))
        if len(where) < 80:
            assert caret.index("^") - 2 == column - 1
            assert shown[2:].replace("\ufffd", "\x00") == where


async def test_what_the_screener_does_not_take(client):
    for query, field, said in (
        ("interval=1d", "where", "is required"),
        ("where=" + "1" * 1001, "where", "1000"),
        *((f"where=close>1&interval={one}", "interval", "takes 1m, 5m, 1d") for one in ("2m", "1h", "1w", "1mo")),
        ("where=close>1&interval=often", "interval", "takes 1m"),
        ("where=close>1&format=xml", "format", "takes json"),
        ("where=close>1&tz=Mars/Olympus", "tz", "takes an IANA time zone"),
    ):
        answer = await client.get(f"/screen?{query}")
        assert answer.status_code == 422, (query, answer.text)
        error = answer.json()["error"]
        details = error["details"] if isinstance(error["details"], list) else [error["details"]]
        assert [one["field"] for one in details] == [field], query
        assert said in error["message"], (query, error["message"])
