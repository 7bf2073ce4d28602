"""The symbols of every vendor go in through every door, and come out of every one."""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import asyncpg
import orjson
import polars as pl
import pytest

from stockpulse.journal.codecs.json_codec import JsonCodec
from stockpulse.providers.replay import ReplayProvider
from vendor_symbols import VENDOR_SYMBOLS

START = datetime(2026, 11, 24, 15, 0, tzinfo=UTC)
TICKS = [
    {
        "symbol": sent,
        "ts": (START + timedelta(seconds=at)).isoformat(),
        "price": 10.0 + at,
        "size": 1.0,
        "trade_id": str(at),
    }
    for at, (sent, _) in enumerate(VENDOR_SYMBOLS)
]
STORED = [stored for _, stored in VENDOR_SYMBOLS]


def as_arrow():
    pl.DataFrame(TICKS).write_ipc_stream(body := io.BytesIO())
    return body.getvalue()


DOORS = {
    "application/json": orjson.dumps(TICKS),
    "application/x-ndjson": b"\n".join(map(orjson.dumps, TICKS)),
    "application/vnd.apache.arrow.stream": as_arrow(),
}


async def post(client, kind, **query):
    params = {"provider": "doors", "calendar": "24/7", "clock": "event", **query}
    answer = await client.post("/ticks", params=params, content=DOORS[kind], headers={"content-type": kind})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", DOORS)
async def test_by_post_and_out_by_path_query_and_sql(client, postgres_dsn, kind):
    count = len(VENDOR_SYMBOLS)
    assert await post(client, kind, end_of_stream="true") == {"accepted": count, "duplicates": 0, "rejected": []}
    others = next(other for other in DOORS if other != kind)
    assert (await post(client, others))["duplicates"] == count  # the same symbols by every way in

    assert set((await client.get("/symbols")).json()["symbols"]) == set(STORED)
    for at, (sent, stored) in enumerate(VENDOR_SYMBOLS):
        for name in {sent, stored, stored.lower()}:
            answer = (await client.get("/ticks/latest", params={"symbol": name})).json()
            assert (answer["symbol"], answer["ticks"][0]["price"]) == (stored, 10.0 + at), name
            for path in ("ohlc", "data"):
                answer = await client.get(f"/api/v1/{path}/{quote(name, safe='')}", params={"interval": "1m"})
                body = answer.json()
                assert (answer.status_code, body["symbol"], body["bars"][-1]["close"]) == (200, stored, 10.0 + at), name
        rows = (await client.get(f"/data/{quote(stored, safe='')}", params={"interval": "1m", "format": "csv"})).text
        assert next(csv.DictReader(io.StringIO(rows)))["close"] == f"{10.0 + at}"

    connection = await asyncpg.connect(postgres_dsn)
    try:
        for view in ("stock_ticks", "price_points"):
            seen = await connection.fetch(f"SELECT DISTINCT symbol FROM {view}")
            assert {row["symbol"] for row in seen} == set(STORED)
        ticks = await connection.fetch("SELECT price FROM stock_ticks WHERE symbol = $1", "M&M.NS")
        assert [row["price"] for row in ticks] == [10.0 + STORED.index("M&M.NS")]
    finally:
        await connection.close()


async def test_symbols_that_would_become_another_are_refused_by_name(client):
    wrong = ["\u00df", "\u0131", "stra\u00dfe", "\ufb00", "A B", "A/../B", "=A"]
    rows = [{**TICKS[0], "symbol": symbol, "trade_id": None} for symbol in wrong]
    answer = (await client.post("/ticks", json=rows)).json()
    assert answer["accepted"] == 0
    assert [one["reason"].partition(":")[0] for one in answer["rejected"]] == ["symbol"] * len(wrong)
    letters = (await client.get("/dead-letters")).json()["dead_letters"]
    assert {json.loads(letter["record"])["symbol"] for letter in letters} == set(wrong)
    assert (await client.get("/symbols")).json() == {"symbols": []}
    await client.post("/ticks", json=[{**TICKS[0], "symbol": "SS"}])
    assert (await client.get("/ticks/latest", params={"symbol": "\u00df"})).status_code == 404


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.arrow"])
async def test_from_a_file(tmp_path, name):
    frame = pl.DataFrame(TICKS)
    path = tmp_path / name
    {"x.csv": frame.write_csv, "x.parquet": frame.write_parquet, "x.arrow": frame.write_ipc}[name](path)
    frames = [frame async for frame in ReplayProvider(path, float("inf")).stream()]
    assert pl.concat(frames)["symbol"].to_list() == [sent for sent, _ in VENDOR_SYMBOLS]


@pytest.mark.thorough
def test_from_the_command_line(tmp_path, postgres_dsn):
    """Replayed into the database, and followed by the setting."""
    pl.DataFrame(TICKS).write_csv(tmp_path / "x.csv")
    environment = os.environ | {"DATABASE_URL": postgres_dsn, "STOCKPULSE_SYMBOLS": ",".join(STORED)}
    done = subprocess.run(
        [sys.executable, "-m", "stockpulse", "replay", "x.csv", "--speed", "max", "--calendar", "24/7",
         "--url", "http://127.0.0.1:9"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{len(TICKS)} accepted, 0 duplicates, 0 rejected" in done.stdout


def test_in_a_record_of_kafka():
    values = [orjson.dumps({**tick, "type": "trade"}) for tick in TICKS]
    decoded = JsonCodec().decode(values)
    assert decoded.ticks["symbol"].to_list() == [sent for sent, _ in VENDOR_SYMBOLS]
    assert decoded.ticks["problem"].null_count() == len(TICKS)
