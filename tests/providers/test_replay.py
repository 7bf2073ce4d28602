"""A replayed recording, in any format and at any speed."""

import gzip
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import polars as pl
import pytest

from stockpulse.errors import InvalidInput
from stockpulse.market.rows import PARSED_TICKS
from stockpulse.market.schemas import TICKS
from stockpulse.providers.base import Clock, Provider
from stockpulse.providers.faults import BadRequest
from stockpulse.providers.replay import ReplayProvider, parse_speed

START = datetime(2013, 10, 7, 8, 0, 0, 464_000, tzinfo=UTC)


class ManualClock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.time = 1_000.0

    def monotonic(self):
        return self.time

    async def sleep(self, seconds):
        self.time += seconds


def trades(rows=100, gap=timedelta(milliseconds=300)):
    return pl.DataFrame(
        {
            "symbol": ["SPY" if i % 3 else "AIG" for i in range(rows)],
            "ts": [START + i * gap for i in range(rows)],
            "price": [167.41 + i / 100 for i in range(rows)],
            "size": [100.0 + i for i in range(rows)],
            "exchange": ["P" if i % 2 else None for i in range(rows)],
            "trade_id": [str(3_735_683_259 + i) for i in range(rows)],
            "conditions": ["20002000" if i % 5 else None for i in range(rows)],
            "tape": ["B" if i % 7 else None for i in range(rows)],
        },
        schema=TICKS,
    )


def trades_with(**columns):
    """Three trades, with columns replaced, added, or (None) left out."""
    frame = trades(3).with_columns(**{name: column for name, column in columns.items() if column is not None})
    return frame.drop(name for name, column in columns.items() if column is None)


def write(frame, path):
    match path.name.partition(".")[2]:
        case "parquet":
            frame.write_parquet(path, row_group_size=37)
        case "csv":
            frame.write_csv(path)
        case "csv.gz":
            path.write_bytes(gzip.compress(frame.write_csv().encode()))
        case "stream.arrow":
            write_stream(frame, path)
        case _:
            frame.write_ipc(path, record_batch_size=37)
    return path


def write_stream(frame, path):
    """Arrow's streaming format in batches of 37 rows: the batches of several streams behind one schema."""
    parts = []
    for rows in frame.iter_slices(37):
        rows.write_ipc_stream(path)
        parts.append(path.read_bytes())
    schema = 8 + int.from_bytes(parts[0][4:8], "little")
    path.write_bytes(parts[0][:schema] + b"".join(part[schema:-8] for part in parts) + parts[0][-8:])


async def replayed(path, speed=math.inf, **arguments):
    """All frames of the file."""
    return [frame async for frame in ReplayProvider(path, speed, **arguments).stream()]


async def replay_one(path):
    return pl.concat(await replayed(path))


@pytest.fixture
def parquet(tmp_path):
    return lambda frame: write(frame, tmp_path / "x.parquet")


# ── Formats ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.arrow", "x.feather", "x.ipc", "x.stream.arrow"])
async def test_every_format_comes_back_as_it_was_written(tmp_path, name):
    path = write(trades(), tmp_path / name)
    provider = ReplayProvider(path, math.inf, batch_rows=30)
    frames = [frame async for frame in provider.stream()]
    assert all(frame.schema == TICKS for frame in frames)
    assert all(0 < len(frame) <= 30 for frame in frames)
    assert pl.concat(frames).equals(trades())
    assert provider.total_rows == 100


@pytest.mark.parametrize("name", ["x.PARQUET", "x.Csv"])
async def test_the_case_of_the_extension_does_not_matter(tmp_path, name):
    path = write(trades(), tmp_path / name.lower()).rename(tmp_path / name)
    assert (await replay_one(path)).equals(trades())


@pytest.mark.parametrize("name", ["x.arrow", "x.stream.arrow"])
async def test_dictionaries_are_read(tmp_path, name):
    frame = trades().with_columns(
        pl.col("symbol").cast(pl.Categorical), exchange=pl.col("exchange").cast(pl.Enum(["P"]))
    )
    assert (await replay_one(write(frame, tmp_path / name))).equals(trades())


async def test_a_file_can_be_streamed_again(parquet):
    provider = ReplayProvider(parquet(trades()), math.inf)
    for _ in range(2):
        assert [len(frame) async for frame in provider.stream()] == [100]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.arrow", "x.stream.arrow"])
async def test_a_file_without_rows_has_no_frames(tmp_path, name):
    if name == "x.stream.arrow":
        trades(0).write_ipc_stream(tmp_path / name)
    else:
        write(trades(0), tmp_path / name)
    provider = ReplayProvider(tmp_path / name, math.inf)
    assert [frame async for frame in provider.stream()] == []
    assert provider.total_rows == 0


# ── Columns ────────────────────────────────────────────────────────────────────────────────────────────────

MICROS = [
    int((START + i * timedelta(milliseconds=300) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    for i in range(3)
]


@pytest.mark.parametrize(
    "ts",
    [
        trades(3)["ts"].cast(pl.Datetime("ns", "UTC")),
        trades(3)["ts"].cast(pl.Datetime("ms", "UTC")),
        trades(3)["ts"].dt.convert_time_zone("America/New_York"),
        trades(3)["ts"].dt.replace_time_zone(None),
        pl.Series([value // 1_000 for value in MICROS]),
        pl.Series(MICROS),
        pl.Series([value * 1_000 for value in MICROS]),
        pl.Series([value * 1_000 for value in MICROS], dtype=pl.UInt64),
        pl.Series([value / 1_000_000 for value in MICROS]),
        pl.Series([str(value // 1_000) for value in MICROS]),
        pl.Series([str(value / 1_000_000) for value in MICROS]),
        pl.Series(["2013-10-07T08:00:00.464Z", "2013-10-07T04:00:00.764-04:00", "2013-10-07t08:00:01.064000000z"]),
        pl.Series(["2013-10-07T08:00:00.464", " 2013-10-07 08:00:00.764 ", "2013-10-07 08:00:01.064+00:00"]),
        pl.Series(["1381132800464", "2013-10-07 08:00:00.764", "2013-10-07T08:00:01.064Z"]),
    ],
    ids=lambda ts: f"{ts.dtype} {ts[0]}",
)
@pytest.mark.parametrize("name", ["ts", "event_time", "Timestamp", "time"])
async def test_times_are_understood_in_many_ways(parquet, ts, name):
    frame = trades_with(**{"ts": None, name: ts})
    assert (await replay_one(parquet(frame)))["ts"].to_list() == trades(3)["ts"].to_list()


async def test_days_are_understood(parquet):
    frame = trades_with(ts=pl.Series([START.date()] * 3))
    assert (await replay_one(parquet(frame)))["ts"].to_list() == [START.replace(hour=0, microsecond=0)] * 3


async def test_of_several_columns_of_times_each_row_takes_the_first_that_has_one(parquet):
    """The order of POST: ts, timestamp, event_time, time."""
    first, second, third = (START.replace(microsecond=0) + timedelta(hours=hour) for hour in range(3))
    frame = trades_with(
        time=pl.Series([START] * 3),
        Event_Time=pl.Series([third.isoformat()] * 3),
        timestamp=pl.Series([None, second.timestamp(), second.timestamp()]),
        ts=pl.Series([None, None, first]),
    )
    assert (await replay_one(parquet(frame)))["ts"].to_list() == [third, second, first]


async def test_whole_seconds_may_be_32_bits_wide(parquet):
    frame = trades_with(ts=pl.Series([1_381_132_800] * 3, dtype=pl.Int32))
    assert (await replay_one(parquet(frame)))["ts"][0] == START.replace(microsecond=0)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("price", pl.Series([167, 168, 169], dtype=pl.Int32)),
        ("price", pl.Series(["167.0", " 168", "1.69e2"])),
        ("price", pl.Series(["167", "168", "169"]).str.to_decimal(scale=2)),
        ("size", pl.Series([167, 168, 169], dtype=pl.UInt64)),
        ("volume", pl.Series([167, 168, 169])),
    ],
)
async def test_numbers_are_understood_in_many_ways(parquet, column, values):
    frame = trades_with(size=None, volume=values) if column == "volume" else trades_with(**{column: values})
    sent = await replay_one(parquet(frame))
    assert sent["size" if column == "volume" else column].to_list() == [167.0, 168.0, 169.0]


async def test_labels_are_understood_in_many_ways(parquet):
    frame = trades_with(
        trade_id=pl.Series([3_735_683_259, None, 7]),
        exchange=pl.Series(["", "Q", None]),
        conditions=pl.Series([["@", "I"], [], None], dtype=pl.List(pl.String)),
    )
    sent = await replay_one(parquet(frame))
    assert sent["trade_id"].to_list() == ["3735683259", None, "7"]
    assert sent["exchange"].to_list() == [None, "Q", None]
    assert sent["conditions"].to_list() == ["@,I", None, None]


async def test_optional_columns_may_be_missing_and_others_are_ignored(parquet):
    frame = trades_with(
        exchange=None, trade_id=None, conditions=None, tape=None, buyer_maker=pl.lit(True), kind=pl.lit("MARKET")
    )
    sent = await replay_one(parquet(frame))
    assert sent.schema == TICKS
    assert sent.null_count().row(0) == (0, 0, 0, 0, 3, 3, 3, 3)


async def test_rows_that_cannot_be_read_say_what_was_there(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(
        "Symbol,ts,price,size,exchange\n"
        "SPY,2013-10-07T08:00:00.464Z,167.41,100,P\n"
        ",yesterday,n/a,many,P\n"
        "SPY,99999999999999999999999,1e999,nan\n"
        'SPY,2013-10-07,"1,000.5",-1,\n'
    )
    sent = await replay_one(path)
    assert sent.schema == PARSED_TICKS
    assert [problem and problem.split("; ") for problem in sent["problem"]] == [
        None,
        [
            "symbol: missing",
            "ts: not a time in the years 1970 to 2200: 'yesterday'",
            "price: not a number: 'n/a'",
            "size: not a number: 'many'",
        ],
        [
            "ts: not a time in the years 1970 to 2200: '99999999999999999999999'",
            "price: not a number: '1e999'",
            "size: not a number: 'nan'",
        ],
        ["price: not a number: '1,000.5'"],
    ]
    assert [None if raw is None else orjson.loads(raw) for raw in sent["raw"]] == [
        None,
        {"symbol": None, "ts": "yesterday", "price": "n/a", "size": "many", "exchange": "P"},
        {"symbol": "SPY", "ts": "9" * 23, "price": "1e999", "size": "nan", "exchange": None},
        {"symbol": "SPY", "ts": "2013-10-07", "price": "1,000.5", "size": "-1", "exchange": None},
    ]
    assert sent.row(0)[:4] == ("SPY", START, 167.41, 100)
    assert sent.row(3)[:4] == ("SPY", START.replace(hour=0, microsecond=0), None, -1)


async def test_an_overview_has_the_times_of_the_file_and_of_trades_without_an_id(parquet):
    path = parquet(trades_with(trade_id=pl.Series([None, "1", None]), symbol=pl.Series(["B", "A", "B"])))
    overview = ReplayProvider(path, batch_rows=2).overview()
    assert (overview.first, overview.last) == (START, START + timedelta(milliseconds=600))
    assert overview.seconds == 0.6
    assert overview.without_id == {"B": (START, START + timedelta(milliseconds=600))}
    nothing = ReplayProvider(parquet(trades_with(ts=pl.Series([None] * 3, dtype=pl.String)))).overview()
    assert (nothing.first, nothing.last, nothing.seconds, nothing.without_id) == (None, None, 0, {})


async def test_rows_out_of_order_and_identical_rows_are_passed_on(parquet):
    frame = pl.concat([trades(5).reverse(), trades(5)])
    assert (await replay_one(parquet(frame))).equals(frame)


# ── Files that cannot be read ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.arrow"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(InvalidInput, match=rf"file: .*{name} cannot be read"):
        ReplayProvider(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"nonsense that is longer than any magic number", b"\xff" * 100])
@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.arrow"])
def test_a_file_that_is_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match="file: "):
        ReplayProvider(tmp_path / name)


def test_a_file_with_an_unknown_extension(tmp_path):
    with pytest.raises(InvalidInput, match=r"file: .*x\.xlsx is not a \.parquet"):
        ReplayProvider(tmp_path / "x.xlsx")


@pytest.mark.parametrize("missing", ["symbol", "ts", "price", "size"])
def test_a_missing_column_is_named(parquet, missing):
    with pytest.raises(InvalidInput, match=f"file: there is no column {missing}"):
        ReplayProvider(parquet(trades_with(**{missing: None})))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("ts", pl.Series([True] * 3)),
        ("ts", pl.Series([timedelta(1)] * 3)),
        ("price", pl.Series([[1.0]] * 3)),
        ("size", pl.Series([False] * 3)),
        ("symbol", pl.Series([1.5] * 3)),
        ("trade_id", pl.Series([1.5] * 3)),
    ],
)
def test_a_column_of_no_use_is_named_with_what_it_takes(parquet, column, values):
    with pytest.raises(InvalidInput, match=f"file: column {column} is of type .*; it takes "):
        ReplayProvider(parquet(trades_with(**{column: values})))


async def test_a_file_that_breaks_off_says_so(tmp_path):
    path = write(trades(), tmp_path / "x.stream.arrow")
    path.write_bytes(path.read_bytes()[:-200])
    provider = ReplayProvider(path, math.inf)
    stream = provider.stream()
    assert len(await anext(stream)) == 37
    assert len(await anext(stream)) == 37
    with pytest.raises(InvalidInput, match="it ends in the middle"):
        await anext(stream)


async def test_a_line_with_too_many_fields_is_not_guessed_at(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("symbol,ts,price,size\nSPY,2013-10-07T08:00:00Z,1,000.5,100\n")
    with pytest.raises(InvalidInput, match="more fields"):
        await replay_one(path)


# ── Pace ───────────────────────────────────────────────────────────────────────────────────────────────────


async def paced(path, speed, **arguments):
    """The frames with the second of the clock at which each came."""
    clock = ManualClock()
    provider = ReplayProvider(path, speed, sleep=clock.sleep, monotonic=clock.monotonic, **arguments)
    return [(clock.time - 1_000, frame) async for frame in provider.stream()]


@pytest.mark.parametrize("speed", [0.5, 1, 60, 100_000])
async def test_rows_come_when_their_time_has_come(parquet, speed):
    frames = await paced(parquet(trades()), speed)
    assert pl.concat(frame for _, frame in frames).equals(trades())
    for second, frame in frames:
        ages = second * speed - (frame["ts"] - START).dt.total_microseconds().to_numpy() / 1e6
        assert (ages >= -1e-6 * max(1, speed)).all()
        assert (ages <= 0.05 * speed + 1e-3).all()


@pytest.mark.parametrize("rows", [7, 1_000])
async def test_dense_rows_are_gathered_for_a_moment(parquet, rows):
    frames = await paced(parquet(trades(1_000, gap=timedelta(milliseconds=1))), 1, batch_rows=rows)
    moments = np.unique([second for second, _ in frames])
    assert moments == pytest.approx(np.arange(0, 1.001, 0.05))


async def test_a_reader_that_was_slow_gets_what_has_come_due_at_once(parquet):
    clock = ManualClock()
    stream = ReplayProvider(parquet(trades()), 1, sleep=clock.sleep, monotonic=clock.monotonic).stream()
    assert len(await anext(stream)) == 1
    clock.time += 15
    assert len(await anext(stream)) == 50


async def test_a_row_out_of_order_neither_waits_nor_holds_others_back(parquet):
    early, late = START - timedelta(hours=1), START + timedelta(seconds=2)
    frame = trades_with(ts=pl.Series([START, late, early]))
    assert [(second, len(frame)) for second, frame in await paced(parquet(frame), 1)] == [(0, 1), (2, 2)]
    for rows in (1, 2):
        assert sum(len(frame) for _, frame in await paced(parquet(frame), 1, batch_rows=rows)) == 3


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
async def test_rows_without_a_time_go_with_the_row_before(parquet, rows):
    frame = trades_with(ts=pl.Series([None, START, None]))
    frame = pl.concat([frame, trades_with(ts=pl.Series([START + timedelta(seconds=5), None, None]))])
    sent = await paced(parquet(frame), 1, batch_rows=rows)
    assert sum(len(frame) for second, frame in sent if second == 0) == 3
    assert sum(len(frame) for second, frame in sent if second == 5) == 3


async def test_as_fast_as_it_is_read_it_never_sleeps(parquet):
    async def sleep(seconds):
        pytest.fail(f"slept for {seconds} s")

    frames = await replayed(parquet(trades(gap=timedelta(hours=9))), sleep=sleep, batch_rows=10)
    assert sum(map(len, frames)) == 100


# ── The rest ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_says_what_it_is(parquet):
    provider: Provider = ReplayProvider(parquet(trades()))
    assert (provider.name, provider.calendar, provider.clock, provider.delay_seconds) == (
        "replay",
        "XNYS",
        Clock.EVENT,
        0,
    )
    assert ReplayProvider(parquet(trades()), calendar="24/7").calendar == "24/7"
    with pytest.raises(BadRequest, match="replay has no bars of the past"):
        await anext(provider.history(["SPY"], "1m", START, START))


@pytest.mark.parametrize(
    ("text", "speed"),
    [("1", 1), ("60", 60), ("2.5", 2.5), (" 10 ", 10), ("max", math.inf), ("MAX", math.inf)],
)
def test_speeds(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "nan", "inf", "1e999", "60x", "1,5"])
def test_speeds_that_are_none(text):
    with pytest.raises(InvalidInput, match="speed: ") as caught:
        parse_speed(text)
    assert caught.value.field == "speed"


@pytest.mark.parametrize("speed", [0, -1.0, math.nan])
def test_a_speed_must_be_above_0(parquet, speed):
    with pytest.raises(InvalidInput, match="speed: "):
        ReplayProvider(parquet(trades()), speed)
