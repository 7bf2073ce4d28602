"""The command line, used as its users do: against a running server, and without one."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx2
import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from app_process import AppProcess, free_port
from stockpulse import __version__
from stockpulse.cli import cli, failures
from stockpulse.postgres import migrate
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.providers.trade_conditions import RULES

BINANCE = Path(__file__).parents[1] / "data" / "trades_binance.parquet"
ROWS = 2578
BAD_CSV = """symbol,ts,price,size
GOOD,2024-01-03T14:30:00Z,10,1
GOOD,2024-01-03T14:30:01Z,-1,1
GOOD,2024-01-03T14:30:02Z,n/a,1
no symbol,2024-01-03T14:30:03Z,10,1
GOOD,2024-01-03T14:31:04Z,11,2
"""


@pytest.fixture(scope="module")
def app() -> Iterator[AppProcess]:
    # The path of pytest's own folder may be too long for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="stockpulse-") as folder,
        AppProcess(Path(folder) / "data", calendar="24/7") as running,
    ):
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, in this process."""
    monkeypatch.setattr(failures, "log_trouble_only", lambda _: None)
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def replay(run: Callable[..., Result]) -> Callable[..., Result]:
    """`stockpulse replay` at full speed; its calendar needs no second to load."""
    return lambda *arguments: run("replay", "--speed", "max", "--calendar", "24/7", *arguments)


def run_alone(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "stockpulse", *map(str, arguments)],
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def counts(output: str) -> tuple[int, ...]:
    """Sent, accepted, duplicates, rejected, as the summary says them."""
    said = re.search(r"([\d,]+) rows sent: ([\d,]+) accepted, ([\d,]+) duplicates, ([\d,]+) rejected", output)
    assert said, output
    return tuple(int(number.replace(",", "")) for number in said.groups())


def fetch(dsn: str, query: str) -> list[tuple[Any, ...]]:
    async def fetch_all() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(dsn)
        rows = await connection.fetch(query)
        await connection.close()
        return [tuple(row) for row in rows]

    return asyncio.run(fetch_all())


def served_bars(app: AppProcess, symbol: str) -> pl.DataFrame:
    answer = httpx2.get(f"{app.url}/api/v1/data/{symbol}", params={"interval": "1m", "format": "arrow"})
    return pl.read_ipc_stream(io.BytesIO(answer.raise_for_status().content))


def aggregated(trades: pl.DataFrame) -> pl.DataFrame:
    """The minute bars of these trades, as anybody would make them offline."""
    return (
        trades.sort("ts", maintain_order=True)
        .group_by("symbol", ts=pl.col("ts").dt.truncate("1m"))
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("size").sum().round(9),
            trade_count=pl.len().cast(pl.Int64),
        )
        .sort("symbol", "ts")
    )


def write_csv(path: Path, symbol: str, rows: int, **columns: Any) -> Path:
    """Trades a second apart."""
    frame = pl.DataFrame(
        {
            "symbol": [symbol] * rows,
            "ts": [f"2024-01-03T14:30:{second:02}Z" for second in range(rows)],
            "price": [10.0 + second for second in range(rows)],
            "size": [1] * rows,
        }
    )
    frame.with_columns(**columns).write_csv(path)
    return path


# Replay into a running server -------------------------------------------------------------------


@pytest.mark.thorough
def test_a_recording_becomes_the_bars_of_its_trades_and_a_second_time_only_duplicates(replay, app):
    command = (BINANCE, "--url", app.url, "--provider", "binance")
    done = replay(*command)
    assert done.exit_code == 0, done.output
    assert counts(done.stdout) == (ROWS, ROWS, 0, 0)

    trades = pl.read_parquet(BINANCE)
    expected = aggregated(trades)
    bars = pl.concat([served_bars(app, symbol) for symbol in sorted(trades["symbol"].unique())])
    assert bars.select(expected.columns).equals(expected)
    assert bars["final"].all()  # the end of the recording closes the last bars

    again = replay(*command)
    assert again.exit_code == 0
    assert counts(again.stdout) == (ROWS, 0, ROWS, 0)


@pytest.mark.thorough
def test_rejected_rows_are_counted_shown_and_kept_in_dead_letters(replay, app, tmp_path):
    (tmp_path / "bad.csv").write_text(BAD_CSV)
    done = replay(tmp_path / "bad.csv", "--url", app.url, "--provider", "bad")
    assert done.exit_code == 0
    assert counts(done.stdout) == (5, 2, 0, 3)
    assert f"{tmp_path}/bad.csv, row 2: price: must be a number > 0" in done.stdout
    assert f"{tmp_path}/bad.csv, row 4: symbol: must be 1 to 32" in done.stdout
    letters = fetch(EmbeddedPostgres(app.data_dir).dsn, "SELECT reason FROM dead_letters WHERE source = 'bad'")
    assert len(letters) == 3


UNREADABLE = """symbol,ts,price,size
ODD,2024-01-03,1.5,1
ODD,2024-01-03 14:30,"1,234.5",1
ODD,yesterday,1.5,
ODD,2024-01-03T14:31:00 -0500,1.5,1
"""
WHY = {
    2: "price: not a number: '1,234.5'",
    3: "ts: not a time in the years 1970 to 2200: 'yesterday'; size: missing",
}


@pytest.mark.parametrize("with_server", [True, False])
def test_what_cannot_be_read_is_said_and_its_dead_letter_has_the_original(
    replay, app, tmp_path, postgres_dsn, monkeypatch, with_server
):
    (tmp_path / "odd.csv").write_text(UNREADABLE)
    if not with_server:
        monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    url = app.url if with_server else f"http://127.0.0.1:{free_port()}"
    done = replay(tmp_path / "odd.csv", "--url", url, "--provider", "odd")
    assert counts(done.stdout) == (4, 2, 0, 2)
    for row, why in WHY.items():
        assert f"odd.csv, row {row}: {why}" in done.stdout
    dsn = EmbeddedPostgres(app.data_dir).dsn if with_server else postgres_dsn
    letters = fetch(dsn, "SELECT reason, record FROM dead_letters WHERE source = 'odd' ORDER BY id")
    assert [reason for reason, _ in letters] == list(WHY.values())
    assert [json.loads(record) for _, record in letters] == [
        {"symbol": "ODD", "ts": "2024-01-03 14:30", "price": "1,234.5", "size": "1"},
        {"symbol": "ODD", "ts": "yesterday", "price": "1.5", "size": None},
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("with_server", [True, False])
def test_a_second_time_without_ids_is_warned_of(replay, app, tmp_path, postgres_dsn, monkeypatch, with_server):
    if not with_server:
        monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    url = app.url if with_server else f"http://127.0.0.1:{free_port()}"
    file = write_csv(tmp_path / "twice.csv", "TWICE", 3)
    first, second = (replay(file, "--url", url, "--provider", "twice") for _ in range(2))
    warning = "Warning: TWICE has bars between 2024-01-03 14:30:00 and 2024-01-03 14:30:02 already, and trades of"
    assert warning not in first.stderr
    assert warning in second.stderr
    assert counts(second.stdout) == (3, 3, 0, 0)  # a warning, and no refusal
    assert "All rows are sent. Waiting until their bars are stored." in second.stderr
    with_ids = write_csv(tmp_path / "ids.csv", "TWICE", 3, trade_id=pl.Series(["1", "2", "3"]))
    assert "Warning" not in replay(with_ids, "--url", url, "--provider", "twice").stderr


def test_the_help_names_the_rules_of_conditions(run):
    shown = " ".join(run("replay", "--help").stdout.replace("\u2502", " ").split())
    for rule in RULES:
        assert re.search(rf"rule for trade conditions: .*\b{rule}\b", shown), rule


def test_several_files_are_one_recording(replay, app, tmp_path):
    first = write_csv(tmp_path / "first.csv", "SEV", 3)
    second = write_csv(tmp_path / "second.csv", "SEV", 2, price=pl.Series([20.0, -1.0]))
    done = replay(first, second, "--url", app.url, "--provider", "several")
    assert counts(done.stdout) == (5, 4, 0, 1)
    assert "second.csv, row 2: price" in done.stdout
    assert served_bars(app, "SEV")["trade_count"].to_list() == [4]


def test_the_rule_for_conditions_is_the_one_that_was_asked_for(replay, app, tmp_path):
    file = write_csv(tmp_path / "sweep.csv", "SWEEP", 2, conditions=pl.Series(["1", "21"]))
    replay(file, "--url", app.url, "--conditions", "algoseek")
    assert served_bars(app, "SWEEP").select("close", "volume").rows() == [(10.0, 2.0)]


def test_a_recording_takes_its_time(replay, app, tmp_path):
    file = write_csv(tmp_path / "slow.csv", "SLOW", 41)
    started = time.monotonic()
    done = replay(file, "--speed", "60", "--url", app.url)
    assert f"{file} covers 0:00:40; at --speed 60 it takes 0:00:01; --speed max is faster." in done.stderr
    assert counts(done.stdout) == (41, 41, 0, 0)
    assert time.monotonic() - started > 40 / 60


# Replay without a server ------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.slow
def test_without_a_server_it_goes_into_the_database(run, postgres_dsn, monkeypatch):
    command = ("replay", BINANCE, "--speed", "max", "--url", f"http://127.0.0.1:{free_port()}", "--calendar", "24/7")
    done = run_alone(*command, DATABASE_URL=postgres_dsn)
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout) == (ROWS, ROWS, 0, 0)
    assert "No server at http://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr

    assert fetch(postgres_dsn, "SELECT count(*) FROM stock_ticks") == [(ROWS,)]
    stored = fetch(
        postgres_dsn,
        "SELECT symbol, ts, open, high, low, close, trade_count FROM bars_1m JOIN symbols ON id = symbol_id"
        ' ORDER BY symbol COLLATE "C", ts',
    )
    expected = aggregated(pl.read_parquet(BINANCE)).drop("volume")
    assert stored == expected.select("symbol", "ts", "open", "high", "low", "close", "trade_count").rows()

    monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    again = run(*command)
    assert counts(again.stdout) == (ROWS, 0, ROWS, 0)


@pytest.mark.thorough
@pytest.mark.slow
def test_stopped_by_a_signal_it_stores_what_was_sent_and_says_how_much(postgres_dsn, tmp_path):
    file = write_csv(tmp_path / "long.csv", "LONG", 60)
    command = [
        sys.executable,
        "-m",
        "stockpulse",
        "replay",
        file,
        "--calendar",
        "24/7",
        "--url",
        f"http://127.0.0.1:{free_port()}",
    ]
    environment = os.environ | {"DATABASE_URL": postgres_dsn}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        while fetch(postgres_dsn, "SELECT count(*) FROM stock_ticks") == [(0,)] and started.poll() is None:
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)
        out, err = started.communicate(timeout=20)
    assert started.returncode == 1
    assert err.splitlines()[-1] == "stockpulse: stopped before the end"
    sent, accepted, *_ = counts(out)
    assert sent == accepted == fetch(postgres_dsn, "SELECT count(*) FROM stock_ticks")[0][0]


def test_a_data_folder_that_another_app_holds_is_refused(replay, app, monkeypatch):
    monkeypatch.setenv("STOCKPULSE_DATA_DIR", str(app.data_dir))
    done = replay(BINANCE, "--url", f"http://127.0.0.1:{free_port()}")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (f"stockpulse: another StockPulse (pid {app.pid}) runs on {app.data_dir}")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--conditions", "nope"), "conditions: got 'nope'; takes one of all, algoseek"),
        (("--calendar", "NOPE"), "calendar: got 'NOPE'; takes 24/7, XNYS"),
        (("--provider", "No"), "provider: got 'No'; takes 1 to 32 of"),
    ],
)
@pytest.mark.parametrize("with_server", [True, False])
def test_what_is_not_taken_is_said_in_one_line(replay, app, option, message, with_server):
    url = app.url if with_server else f"http://127.0.0.1:{free_port()}"
    done = replay(BINANCE, "--url", url, *option)
    assert done.exit_code == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stdout == ""


# Invalid commands -------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "nan", "inf", ""])
def test_speeds_that_are_none(run, speed):
    done = run("replay", BINANCE, f"--speed={speed}")
    assert (done.exit_code, done.stderr) == (1, f"stockpulse: speed: '{speed}' is neither a number above 0 nor max\n")


def test_a_file_that_is_not_there(run, app, tmp_path):
    done = run("replay", BINANCE, tmp_path / "none.parquet", "--url", app.url)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"stockpulse: file: {tmp_path}/none.parquet cannot be read: No such file")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""  # nothing of the first file was sent


def test_a_file_without_a_column_that_is_needed(run, tmp_path):
    (tmp_path / "x.csv").write_text("symbol,ts,price\nA,2024-01-03,1\n")
    done = run("replay", tmp_path / "x.csv")
    assert (done.exit_code, done.stderr) == (
        1,
        "stockpulse: file: there is no column size or volume, only symbol, ts, price\n",
    )


# When the server fails --------------------------------------------------------------------------


class FakeServer:
    """Answers /version like StockPulse, and each POST with the next of these: a status, or None to hang up."""

    def __init__(self, *answers: int | None, port: int = 0, name: str = "stockpulse") -> None:
        self.posts: list[int] = []
        fake, left = self, list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {"name": name})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                rows = len(pl.read_ipc_stream(body)) if body else 0
                fake.posts.append(rows)
                status = left.pop(0) if left else 200
                if status == 200:
                    self._answer(200, {"accepted": rows, "duplicates": 0, "rejected": []})
                elif status is not None:
                    self._answer(status, {"error": {"code": "X", "message": "no good"}})

            def _answer(self, status: int, answer: object) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("stockpulse.cli.replay._BATCH_ROWS", 20)
    monkeypatch.setattr("stockpulse.cli.replay_target._RETRY_SECONDS", (0.01, 0.1, 0.4))


@pytest.mark.parametrize("fault", [None, 503, 500])
def test_ticks_with_an_id_are_sent_again_when_it_is_unknown_whether_they_came(replay, tmp_path, small_batches, fault):
    file = write_csv(tmp_path / "x.csv", "ID", 50, trade_id=pl.int_range(50))
    with FakeServer(200, fault, fault) as server:
        done = replay(file, "--url", server.url)
    assert done.exit_code == 0
    assert server.posts == [20, 20, 20, 20, 10, 0]
    assert counts(done.stdout) == (50, 50, 0, 0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(None, "the connection failed: "), (503, "the server fails: no good"), (500, "the server fails: no good")],
)
def test_ticks_without_an_id_are_not_and_it_says_what_is_certain(replay, tmp_path, small_batches, fault, said):
    file = write_csv(tmp_path / "x.csv", "NONE", 50)
    with FakeServer(200, fault) as server:
        done = replay(file, "--url", server.url)
    assert done.exit_code == 1
    assert server.posts == [20, 20]
    last = done.stderr.splitlines()[-1]
    assert said in last
    assert last.endswith(f"of {file}, 20 rows are stored, rows 21 to 40 may or may not be stored")
    assert counts(done.stdout) == (20, 20, 0, 0)


def test_a_refusal_says_why_and_that_nothing_of_the_batch_is_stored(replay, tmp_path, small_batches):
    file = write_csv(tmp_path / "x.csv", "NONE", 50)
    with FakeServer(200, 413) as server:
        done = replay(file, "--url", server.url)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        f"stockpulse: the server refuses: no good; of {file}, 20 rows are stored, rows 21 to 40 are not stored"
    )


class _Vanishing(FakeServer):
    """Is gone after it was found to be there, for a while or for good."""

    def __init__(self, back_after: float | None) -> None:
        super().__init__()
        self._back_after = back_after
        self.back: FakeServer | None = None
        server = self._server
        handler: Any = server.RequestHandlerClass
        answer = handler.do_GET

        def answer_and_go(request: Any) -> None:
            answer(request)
            request.close_connection = True
            server.socket.close()
            threading.Thread(target=self._return, daemon=True).start()

        handler.do_GET = answer_and_go

    def _return(self) -> None:
        self._server.shutdown()
        if self._back_after is not None:
            time.sleep(self._back_after)
            self.back = FakeServer(port=self._server.server_port).__enter__()

    def __exit__(self, *_: object) -> None:
        if self.back:
            self.back.__exit__()


def test_a_server_that_is_away_is_waited_for(replay, tmp_path, small_batches):
    file = write_csv(tmp_path / "x.csv", "NONE", 50)
    with _Vanishing(back_after=0.1) as server:
        done = replay(file, "--url", server.url)
        assert done.exit_code == 0, done.output
        assert server.back
        assert server.back.posts == [20, 20, 10, 0]


def test_but_not_for_ever(replay, tmp_path, small_batches):
    file = write_csv(tmp_path / "x.csv", "NONE", 50)
    with _Vanishing(back_after=None) as server:
        done = replay(file, "--url", server.url)
    assert done.exit_code == 1
    assert "the server is gone" in done.stderr
    assert done.stderr.endswith("0 rows are stored, rows 1 to 20 are not stored\n")


def test_something_else_that_answers_is_not_taken_for_the_server(replay):
    with FakeServer(name="another") as server:
        done = replay(BINANCE, "--url", server.url)
    assert (done.exit_code, server.posts) == (1, [])
    assert "is not a StockPulse" in done.stderr


def test_a_server_elsewhere_that_does_not_answer_is_an_error(replay):
    done = replay(BINANCE, "--url", "http://stockpulse.invalid:8000")
    assert done.exit_code == 1
    assert "no server at http://stockpulse.invalid:8000" in done.stderr


# Kafka, and what could not be taken --------------------------------------------------------------

UNSET = "stockpulse: KAFKA_BOOTSTRAP_SERVERS: is not set; takes host:port, several separated by commas\n"


@pytest.mark.parametrize("command", ["create", "list", "accept-loss"])
def test_topics_without_brokers_in_the_settings(run, command):
    done = run("topics", command)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", UNSET)


@pytest.mark.parametrize("command", ["create", "list"])
def test_topics_on_brokers_that_do_not_answer(run, monkeypatch, command):
    monkeypatch.setattr("stockpulse.journal.kafka.topics._PATIENCE_SECONDS", 0)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("STOCKPULSE_KAFKA_PASSWORD", "secret")
    done = run("topics", command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("stockpulse: KAFKA_BOOTSTRAP_SERVERS: no broker answers at 127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.output


@pytest.mark.thorough
def test_topics_are_made_and_shown(run, monkeypatch, kafka, topic):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("STOCKPULSE_KAFKA_PARTITIONS", "3")
    monkeypatch.setenv("STOCKPULSE_KAFKA_RETENTION_HOURS", "24")
    for name in ("RAW", "OHLCV", "ANALYTICS", "SIGNALS"):
        monkeypatch.setenv(f"STOCKPULSE_KAFKA_TOPIC_{name}", f"{topic}.{name.lower()}")
    for _ in range(2):
        made = run("topics", "create")
        assert made.exit_code == 0, made.output
    shown = run("topics", "list").stdout.splitlines()
    names = [f"{topic}.{name}" for name in ("raw", "ohlcv", "analytics", "signals")]
    assert [line.split() for line in shown[1:5]] == [[name, "3", "1", "24", "h"] for name in names]
    assert [line.split() for line in shown[6:]] == [[str(number), "0", "0"] for number in range(3)]


def test_a_move_that_there_is_nothing_to_do_for(run, postgres_dsn, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    done = run("move", "kafka")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "stockpulse: the database follows no log yet: there is nothing to move, just start\n"
    assert run("move", "elsewhere").exit_code == 2


@pytest.mark.thorough
def test_forget_takes_back_what_a_server_has_stored(run, replay, app, tmp_path):
    path = write_csv(tmp_path / "f.csv", "FGT", 30)
    replay(path, "--url", app.url)
    assert len(served_bars(app, "FGT")) == 1
    span = ("--from", "2024-01-03T14:30:10Z", "--to", "2024-01-03T14:30:20Z")
    done = run("forget", "FGT", "--provider", "replay", *span, "--url", app.url)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == ["10 ticks taken back", "3 bars rebuilt"]
    assert served_bars(app, "FGT")["trade_count"].to_list() == [20]
    done = run("forget", "FGT", "--url", app.url)
    assert done.output.splitlines() == ["20 ticks taken back", "3 bars deleted"]
    assert len(served_bars(app, "FGT")) == 0
    assert counts(replay(path, "--url", app.url).output) == (30, 30, 0, 0)
    run("forget", "FGT", "--url", app.url)


@pytest.mark.thorough
def test_forget_without_a_server_writes_the_database(run, postgres_dsn, monkeypatch, tmp_path):
    monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    away = ("--url", f"http://127.0.0.1:{free_port()}")
    path = write_csv(tmp_path / "f.csv", "FGT", 30)
    assert run("replay", path, "--speed", "max", "--calendar", "24/7", *away).exit_code == 0
    done = run("forget", "--provider", "replay", *away)
    assert done.exit_code == 0, done.output
    assert "30 ticks taken back" in done.output
    assert fetch(postgres_dsn, "SELECT (SELECT count(*) FROM stock_ticks), (SELECT count(*) FROM bars)") == [(0, 0)]
    assert fetch(postgres_dsn, "SELECT count(*) FROM realtime_prices") == [(30,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "SYMBOL: give a symbol, --provider, or both"),
        (("FGT", "--from", "yesterday"), "--from: got 'yesterday'; takes"),
        (("FGT", "--from", "2024-01-02", "--to", "2024-01-02"), "--to: comes after --from"),
        (("--provider", "No Body"), "--provider: got"),
        (("NOT-THERE",), "the server refuses: no such symbol: 'NOT-THERE'"),
    ],
)
def test_forget_says_what_is_wrong(run, app, arguments, message):
    done = run("forget", *arguments, "--url", app.url)
    assert done.exit_code == 1
    assert f"stockpulse: {message}" in done.output


@pytest.mark.parametrize("command", ["list", "retry"])
def test_dead_letters_without_a_server(run, command):
    done = run("dlq", command, "--url", "http://127.0.0.1:1")
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"stockpulse: no server at http://127\.0\.0\.1:1: .*\n", done.stderr)


def test_dead_letters_of_a_server_that_refuses(run):
    with FakeServer(404) as server:
        done = run("dlq", "retry", "--url", server.url)
    assert (done.exit_code, done.stderr) == (1, "stockpulse: the server refuses: no good\n")


def test_dead_letters_are_shown_and_what_is_good_now_is_stored(run, app):
    """The other one stays: a price does not get better."""
    later = time.time() + 6  # than StockPulse accepts now: five seconds are
    ticks = [
        {"symbol": "EARLY", "ts": later, "price": 7, "size": 1},
        {"symbol": "CHEAP", "ts": "2026-01-02T00:00:00Z", "price": -7, "size": 1},
    ]
    httpx2.post(f"{app.url}/ticks", params={"provider": "letters"}, json=ticks).raise_for_status()
    command = ("--url", app.url, "--source", "letters")
    listed = run("dlq", "list", *command).stdout.splitlines()
    assert len(listed) == 4
    assert all(re.match(r"\d+ 20\d\d-\S+Z letters: (ts|price): ", line) for line in listed[::2])
    assert sorted(json.loads(line)["symbol"] for line in listed[1::2]) == ["CHEAP", "EARLY"]

    time.sleep(max(later - time.time() - 4, 0))
    done = run("dlq", "retry", *command)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "1 records stored, 1 still refused"
    assert re.match(r"  \d+: price: must be a number > 0", done.stdout.splitlines()[1])
    assert "(sent again 20" in run("dlq", "list", *command).stdout
    assert run("dlq", "retry", *command).stdout.startswith("0 records stored, 1 still refused")


# The other commands -----------------------------------------------------------------------------


def test_version(run):
    assert run("version").stdout == f"stockpulse {__version__}\n"


def test_migrate(run, empty_dsn, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", empty_dsn)
    assert not asyncio.run(migrate.is_current(empty_dsn))
    for _ in range(2):
        assert run("migrate").stdout == "the schema is up to date\n"
    assert asyncio.run(migrate.is_current(empty_dsn))


@pytest.mark.parametrize("command", [("migrate",), ("replay", BINANCE, "--url", "http://127.0.0.1:1")])
def test_a_database_that_does_not_answer(run, monkeypatch, command):
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/nothing")
    done = run(*command)
    assert done.exit_code == 1
    assert "stockpulse: the database does not answer: " in done.stderr
    assert "secret" not in done.output


def test_a_setting_that_is_wrong(run, monkeypatch):
    monkeypatch.setenv("STOCKPULSE_LATENESS_SECONDS", "soon")
    for command in ("serve", "migrate"):
        done = run(command)
        assert done.exit_code == 1
        assert done.stderr.startswith("stockpulse: STOCKPULSE_LATENESS_SECONDS: got 'soon'; ")


@pytest.mark.slow
def test_serve(postgres_dsn):
    port = free_port()
    command = [sys.executable, "-m", "stockpulse", "serve", "--port", str(port)]
    settings = {"DATABASE_URL": postgres_dsn, "STOCKPULSE_PROVIDER": "none", "STOCKPULSE_CALENDAR": "24/7"}
    with subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True) as server:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        answer = httpx2.get(f"http://127.0.0.1:{port}/ready").json()
        server.send_signal(signal.SIGTERM)
        _, lines = server.communicate(timeout=20)
    assert answer == {"status": "ready"}
    assert server.returncode == 0
    assert all(json.loads(line)["event"] for line in lines.splitlines())


class TestBackfill:
    def test_through_the_server(self, app, run):
        midnight = time.time() // 86_400 * 86_400
        wanted = ("--interval", "5m", "--start", f"{midnight - 3 * 86_400:.0f}", "--end", f"{midnight - 86_400:.0f}")
        wanted += ("--provider", "simulated", "--url", app.url)
        done = run("backfill", "BTC/USD", "ETH/USD", *wanted)
        assert done.exit_code == 0, done.output
        assert "1,152 bars loaded with 2 requests; 0 refused" in done.stdout
        again = run("backfill", "BTC/USD", "ETH/USD", *wanted)
        assert "0 bars loaded with 0 requests" in again.stdout

    def test_refusals_of_the_server_are_shown(self, app, run):
        wanted = ("backfill", "BTC/USD", "--start", "2026-03-02", "--provider", "nobody", "--url", app.url)
        done = run(*wanted)
        assert done.exit_code == 1
        assert "no provider is called 'nobody'" in done.stderr

    @pytest.mark.thorough
    def test_without_a_server(self, run, monkeypatch):
        with tempfile.TemporaryDirectory(prefix="stockpulse-") as folder:
            monkeypatch.setenv("STOCKPULSE_DATA_DIR", folder)
            yesterday = f"{time.time() - 86_400:.0f}"
            wanted = ("backfill", "BTC/USD", "--interval", "5m", "--start", yesterday)
            done = run(*wanted, "--url", f"http://127.0.0.1:{free_port()}")
            assert done.exit_code == 0, done.output
            assert "loading into the database" in done.stderr
            assert re.search(r"28[5-9] bars loaded with 1 requests; 0 refused", done.stdout)


class TestReplayOfAProvider:
    def test_a_past_day_of_bars(self, app, run):
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 3 * 86_400))
        wanted = ("replay", f"simulated:{day}", "--symbols", "SOL/USD,ADA/USD", "--bars", "--calendar", "24/7")
        done = run(*wanted, "--speed", "max", "--provider", "past", "--url", app.url)
        assert done.exit_code == 0, done.output
        assert "11,520 rows sent: 11,520 accepted, 0 duplicates, 0 rejected" in done.stdout
        again = run(*wanted, "--speed", "max", "--provider", "past", "--url", app.url)
        assert "0 accepted, 11,520 duplicates" in again.stdout
        bars = httpx2.get(f"{app.url}/data/SOL/USD?interval=1m&start={day}").json()["bars"]
        assert [len(bars), bars[0]["source"], bars[0]["trade_count"]] == [1440, "trades", 4]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("simulated:2026-02-30", "--symbols", "A"), "takes a date, simulated:2024-11-14"),
            (("simulated:2026-02-27",), "--symbols: a day of a provider needs symbols"),
            (("simulated:2026-02-27", "--symbols", "not a symbol"), "--symbols: got"),
            (("simulated:2026-02-27", "--symbols", "A"), "no trades of the past; with --bars"),
            (("nobody:2026-02-27", "--symbols", "A"), "no provider is called 'nobody'"),
        ],
    )
    def test_what_cannot_be_replayed(self, app, run, arguments, message):
        done = run("replay", *arguments, "--url", app.url)
        assert done.exit_code == 1
        assert message in done.stderr
