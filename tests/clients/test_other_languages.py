"""Alpaca's libraries for Go and JavaScript, unchanged, read from StockPulse: only its base URL is another one."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client_server import MINUTES, START, SYMBOLS, price_of, send, ticks

from app_process import AppProcess

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.xdist_group("clients")]

HERE = Path(__file__).parent
DOWNLOAD_SECONDS = 120


def installed(*command: str, cwd: Path) -> None:
    """Run a command that downloads a library; skip the test if it cannot."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the program in Go."""
    if shutil.which("go") is None:
        pytest.skip("needs go")
    folder = tmp_path_factory.mktemp("go")
    shutil.copytree(HERE / "golang", folder, dirs_exist_ok=True)
    installed("go", "mod", "download", cwd=folder)
    subprocess.run(["go", "build", "-o", "client", "."], cwd=folder, check=True, timeout=DOWNLOAD_SECONDS)
    return [str(folder / "client")]


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Install the library for JavaScript beside the program."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    if int(subprocess.check_output(["node", "--version"], text=True)[1:].partition(".")[0]) < 20:
        pytest.skip("needs node 20")
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(HERE / "node", folder, dirs_exist_ok=True)
    installed("npm", "install", "--no-audit", "--no-fund", cwd=folder)
    return ["node", str(folder / "client.js")]


@contextmanager
def running(command: list[str], app: AppProcess, symbol: str) -> Iterator[Iterator[Any]]:
    """Run a program; yield the objects that it prints."""
    process = subprocess.Popen(
        [*command, app.url, START.isoformat().replace("+00:00", "Z"), symbol],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield map(json.loads, process.stdout)
        assert process.wait(60) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def listen(app: AppProcess, lines: Iterator[Any], symbol: str) -> dict[str, Any]:
    """Send trades when the program has subscribed; return the last row of each kind that it got."""
    assert next(lines)["kind"] == "subscribed"
    feed = {"provider": symbol.lower(), "clock": "event"}
    rows = [tick | {"symbol": symbol, "price": 50.5} for tick in ticks("AAPL", range(3))]
    send(app, rows, **feed)
    send(app, [rows[0] | {"trade_id": "7", "price": 51.0, "ts": START.isoformat()}], **feed)
    found: dict[str, Any] = {}
    for line in lines:
        found.setdefault(line["kind"], line["row"])
    assert found.keys() == {"trade", "bar", "updated", "daily"}
    assert found["trade"]["price"] == 50.5
    return found


def prices(symbol: str, minutes: range) -> list[float]:
    return [price_of(symbol, at) for at in minutes]


def test_the_library_for_go(filled: AppProcess, go_client: list[str]) -> None:
    with running(go_client, filled, "GOLANG") as lines:
        read = next(lines)
        for symbol in SYMBOLS:
            assert [bar["c"] for bar in read["bars"][symbol]] == prices(symbol, range(MINUTES))
            assert [trade["p"] for trade in read["trades"][symbol]] == prices(symbol, range(10))
            assert read["latest"][symbol]["p"] == read["snapshots"][symbol]["latestTrade"]["p"]
        assert read["trades"]["AAPL"][0]["t"] == "2026-07-06T13:30:05.208Z"
        assert read["quotes"] == {}
        found = listen(filled, lines, "GOLANG")
    assert (found["bar"]["close"], found["bar"]["volume"], found["bar"]["trade_count"]) == (50.5, 100, 1)
    assert found["trade"]["timestamp"] == "2026-07-06T13:30:05.208Z"
    assert (found["trade"]["id"], found["trade"]["conditions"]) == (10**12, ["@"])
    assert found["updated"]["high"] == 51.0


def test_the_library_for_javascript(filled: AppProcess, node_client: list[str]) -> None:
    with running(node_client, filled, "NODEJS") as lines:
        read = next(lines)
        for symbol in SYMBOLS:
            assert [bar["c"] for bar in read["bars"][symbol]] == prices(symbol, range(MINUTES))
            assert [trade["p"] for trade in read["trades"][symbol]] == prices(symbol, range(10))
            assert read["latest"][symbol]["p"] == read["snapshots"][symbol]["latestTrade"]["p"]
        assert read["movers"]["gainers"] or read["movers"]["losers"]
        found = listen(filled, lines, "NODEJS")
    assert (found["bar"]["close"], found["bar"]["volume"], found["bar"]["tradeCount"]) == (50.5, 100, 1)
    assert found["trade"]["timestampRaw"] == "2026-07-06T13:30:05.208000000Z"
    assert found["updated"]["high"] == 51.0
