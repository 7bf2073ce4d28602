"""Every example with a request works, and the answer has the documented shape."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import polars as pl
import pytest

import documents
from app_process import AppProcess
from documents import ELLIPSIS, Example

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("document examples")]  # all of them use one server

SERVER = "127.0.0.1:8000"
CATCH_UP_SECONDS = 60


@pytest.fixture(scope="module")
def app(compiled: Path) -> Iterator[AppProcess]:
    """A server as a newcomer starts it, with its indicators calculated."""
    with (
        tempfile.TemporaryDirectory(prefix="stockpulse-") as folder,
        AppProcess(Path(folder) / "data", provider="simulated", cache_dir=str(compiled)) as running,
    ):
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not _has_caught_up(running):
            assert time.monotonic() < deadline, "the indicators do not catch up"
            time.sleep(0.2)
        yield running


def _has_caught_up(app: AppProcess) -> bool:
    """Return True when every tier of indicators and live ticks are there for some symbols."""
    if httpx2.get(f"{app.url}/health", timeout=10).json()["analytics"] != {"compiled": True, "behind": 0}:
        return False
    for symbol in ("AAPL", "NVDA", "TSLA"):
        tiers = httpx2.get(f"{app.url}/analytics/{symbol}", timeout=10)
        ticks = httpx2.get(f"{app.url}/ticks/latest?symbol={symbol}", timeout=10)
        if not (tiers.is_success and ticks.is_success) or None in tiers.json().values() or not ticks.json()["ticks"]:
            return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the examples name."""
    folder = tmp_path_factory.mktemp("reader")
    times = [datetime(2026, 3, 2, 15, 30, tzinfo=UTC) + timedelta(seconds=at) for at in (0, 1)]
    trades = pl.DataFrame({"symbol": "DIA", "ts": times, "price": [212.25, 212.5], "size": [100.0, 20.0]})
    trades.write_parquet(folder / "trades.parquet")
    trades.with_columns(pl.lit("QQQ").alias("symbol"), pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_ndjson(
        folder / "ticks.ndjson"
    )
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    return folder


def run(command: list[str], app: AppProcess, folder: Path) -> str:
    environment = os.environ | {"STOCKPULSE_DATA_DIR": str(app.data_dir), "COLUMNS": "500"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def at_server(text: str, app: AppProcess) -> str:
    """The command for the server of this test; the commands of StockPulse take its address as an option."""
    text = text.replace(SERVER, f"127.0.0.1:{app.port}")
    return f"{text} --url {app.url}" if text.startswith(".venv/bin/stockpulse") else text


def ended(command: str) -> str:
    """The command with an end: `curl -N` reads a stream until it is stopped."""
    return f"{command} --max-time 5 || test $? = 28" if "curl -N" in command else command


def check(example: Example, printed: str) -> None:
    if example.answer is None:
        return
    if example.answer.startswith("{"):
        documented, real = documents.documented_json(example.answer), json.loads(printed)
        assert documents.differences(documented, real, partial=ELLIPSIS in example.answer) == []
    elif "format=csv" in example.command:
        assert printed.splitlines()[0] == example.answer.splitlines()[0]
        assert len(printed.splitlines()) > 1
    else:
        lines = {_without_figures(line) for line in printed.splitlines()}
        assert {_without_figures(line) for line in example.answer.splitlines()} <= lines, printed


def _without_figures(line: str) -> str:
    return re.sub(r"\d[\d.,:TZ-]*", "0", line).strip()


@pytest.mark.thorough
def test_every_request_answers_as_documented(app: AppProcess, folder: Path, subtests: pytest.Subtests) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("needs bash and curl")
    examples = list(documents.examples())
    assert len(examples) > 20
    for example in examples:
        with subtests.test(page=example.page, command=example.command):
            command = ended(at_server(example.command, app))
            check(example, run(["bash", "-c", f"set -e -o pipefail; {command}"], app, folder))


@pytest.mark.thorough
def test_the_python_that_sends_ticks_runs(app: AppProcess, folder: Path) -> None:
    snippets = [one for one in documents.code(documents.page("sending-ticks"), "python") if SERVER in one]
    assert len(snippets) == 1
    printed = run([sys.executable, "-c", at_server(snippets[0], app)], app, folder)
    assert printed.strip() == "{'accepted': 1, 'duplicates': 0, 'rejected': []}"


@pytest.mark.thorough
def test_the_documented_metrics_are_those_that_are_served(app: AppProcess) -> None:
    text = httpx2.get(f"{app.url}/metrics", timeout=10).text
    served = {
        name: kind
        for name, kind in re.findall(r"^# TYPE (stockpulse_\w+) (\w+)$", text, re.MULTILINE)
        if not name.endswith("_created")
    }
    table = documents.section(documents.page("monitoring"), "/metrics")
    documented = [name for cells in documents.rows(table) for name in documents.names_in(cells[0])]
    assert sorted(documented) == sorted(served)


def test_every_other_snippet_of_python_is_python() -> None:
    for name, path in documents.pages().items():
        for snippet in documents.code(path.read_text(), "python"):
            compile(snippet, name, "exec")
