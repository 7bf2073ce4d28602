import asyncio
import io
import json
import math
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx2
import orjson
import polars as pl
import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from stockpulse.api import encoders, error_responses, formats
from stockpulse.api.encoders import MEDIA_TYPES, Format, Rows, json_rows
from stockpulse.api.formats import AnswerFormat, answer, answer_frame, choose_format
from stockpulse.api.time_params import Zone
from stockpulse.errors import DatabaseUnavailable, InvalidInput

NEW_YORK = ZoneInfo("America/New_York")
NOON = datetime(2026, 2, 27, 12, 5, tzinfo=UTC)
BARS = pl.Schema(
    {
        "ts": pl.Datetime("us", "UTC"),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "source": pl.String(),
        "final": pl.Boolean(),
    }
)
CHUNKS = [
    pl.DataFrame([(NOON, 189.7, 8341.0, 'a "b",\n\\', True)], schema=BARS, orient="row"),
    pl.DataFrame(schema=BARS),
    pl.DataFrame(
        [
            (NOON + timedelta(milliseconds=500), math.nan, None, None, None),
            (NOON + timedelta(microseconds=1), math.inf, 0.0, "é\u2028\0", False),
        ],
        schema=BARS,
        orient="row",
    ),
]
ROWS = [
    {"ts": "2026-02-27T12:05:00Z", "close": 189.7, "volume": 8341, "source": 'a "b",\n\\', "final": True},
    {"ts": "2026-02-27T12:05:00.500Z", "close": None, "volume": None, "source": None, "final": None},
    {"ts": "2026-02-27T12:05:00.000001Z", "close": None, "volume": 0, "source": "é\u2028\0", "final": False},
]


class Source:
    """Chunks as a query gives them: one by one, and closed in the end."""

    def __init__(self, chunks, fault=None):
        self.chunks, self.fault, self.taken = chunks, fault, 0
        self.closed = asyncio.Event()

    async def __call__(self):
        try:
            for chunk in self.chunks:
                self.taken += 1
                yield chunk
            if self.fault:
                raise self.fault
        finally:
            self.closed.set()


def app_for(source, schema=BARS):
    app = FastAPI()
    error_responses.install(app)

    @app.get("/bars", responses=formats.FORMAT_RESPONSES)
    async def bars(format: AnswerFormat, zone: Zone):
        rows = Rows(
            chunks=source(),
            schema=schema,
            key="bars",
            header_fields={"symbol": "BRK/B", "interval": "5m", "as_of": NOON},
            footer_fields=lambda: {"count": sum(chunk.height for chunk in source.chunks)},
            filename="BRK/B-5m",
        )
        return await answer(rows, format, zone)

    return app


def get(query="", accept=None, chunks=CHUNKS, schema=BARS):
    client = TestClient(app_for(Source(chunks), schema))
    return client.get(f"/bars?{query}", headers={"accept": accept} if accept else {})


# --- JSON --------------------------------------------------------------------------------------


def test_json_streams_the_rows_in_their_envelope():
    response = get()
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    assert "content-disposition" not in response.headers
    assert response.text.startswith(
        '{"symbol":"BRK/B","interval":"5m","as_of":"2026-02-27T12:05:00Z","bars":'
        '[{"ts":"2026-02-27T12:05:00Z","close":189.7,"volume":8341,'
    )
    assert response.text.endswith('}],"count":3}')
    assert response.json()["bars"] == ROWS


@pytest.mark.parametrize("chunks", [[], [pl.DataFrame(schema=BARS)]])
def test_no_rows_are_an_answer_too(chunks):
    assert get(chunks=chunks).json()["bars"] == []
    assert get("format=csv", chunks=chunks).text == "ts,close,volume,source,final\n"
    for read, name in ((pl.read_ipc_stream, "arrow"), (pl.read_parquet, "parquet")):
        assert read(get(f"format={name}", chunks=chunks).content).schema == BARS


async def test_a_small_frame_says_its_count_first():
    response = await answer_frame(CHUNKS[2], "ticks", {"symbol": "AAPL"})
    assert response.body.startswith(b'{"symbol":"AAPL","count":2,"ticks":[{"ts":')
    assert orjson.loads(response.body)["ticks"] == ROWS[1:]
    assert response.headers["content-length"] == str(len(response.body))
    response = await answer_frame(CHUNKS[0], "ticks", {}, Format.PARQUET, filename="AAPL")
    assert pl.read_parquet(response.body).equals(CHUNKS[0])


def test_times_in_another_zone():
    assert get("tz=America/New_York").json()["bars"][1]["ts"] == "2026-02-27T07:05:00.500-05:00"


def test_times_without_a_zone_are_utc():
    frame = pl.DataFrame({"ts": [datetime(2026, 7, 1, 12), None]})  # noqa: DTZ001
    assert json_rows(frame) == b'[{"ts":"2026-07-01T12:00:00Z"},{"ts":null}]'
    assert json_rows(frame, NEW_YORK) == b'[{"ts":"2026-07-01T08:00:00-04:00"},{"ts":null}]'


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, None], b'[{"x":1},{"x":null}]'),
        ([1.0, 1.5], b'[{"x":1.0},{"x":1.5}]'),
        ([1.0, math.nan], b'[{"x":1},{"x":null}]'),
        ([-0.0], b'[{"x":0}]'),
        ([2.0**53], b'[{"x":9007199254740992.0}]'),
        ([0.1 + 0.2, 1e-7], b'[{"x":0.30000000000000004},{"x":1e-7}]'),
        ([], b"[]"),
    ],
)
def test_numbers(values, text):
    assert json_rows(pl.DataFrame({"x": values}, schema={"x": pl.Float64})) == text


COLUMNS = {
    "f": st.none() | st.floats(),
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "s": st.none() | st.text(),
    "b": st.none() | st.booleans(),
    "t": st.none()
    | st.datetimes(
        datetime(1970, 1, 1),  # noqa: DTZ001  # hypothesis takes bounds without a zone
        datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
}
FRAME_SCHEMA = pl.Schema(
    {"f": pl.Float64(), "i": pl.Int64(), "s": pl.String(), "b": pl.Boolean(), "t": pl.Datetime("us", "UTC")}
)
FRAMES = st.lists(st.fixed_dictionaries(COLUMNS)).map(lambda rows: pl.DataFrame(rows, schema=FRAME_SCHEMA))


@given(FRAMES, st.sampled_from([None, NEW_YORK, ZoneInfo("Asia/Kathmandu")]))
def test_json_parses_and_equals_the_frame(frame, zone):
    rows = json.loads(json_rows(frame, zone))
    for row in rows:
        row["t"] = row["t"] and datetime.fromisoformat(row["t"])
    expected = frame.to_dicts()
    for row in expected:
        row["f"] = row["f"] if row["f"] is not None and math.isfinite(row["f"]) else None
    assert rows == expected
    assert orjson.loads(json_rows(frame, zone)) == json.loads(json_rows(frame, zone))


# --- the other formats -------------------------------------------------------------------------


def test_csv():
    response = get(
        "format=csv&tz=America/New_York",
        chunks=[chunk.drop("source") for chunk in CHUNKS],
        schema=pl.Schema({name: dtype for name, dtype in BARS.items() if name != "source"}),
    )
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="BRK_B-5m.csv"'
    assert response.text.splitlines() == [
        "ts,close,volume,final",
        "2026-02-27T07:05:00-05:00,189.7,8341.0,true",
        "2026-02-27T07:05:00.500-05:00,,,",
        "2026-02-27T07:05:00.000001-05:00,,0.0,false",
    ]


def test_csv_quotes_what_needs_it():
    read = pl.read_csv(get("format=csv").content)
    assert read["source"].to_list() == [row["source"] for row in ROWS]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_arrow_is_one_stream_for_every_reader(zone):
    body = get(f"format=arrow&tz={zone}").content
    expected = pl.concat(CHUNKS).with_columns(pl.col("ts").dt.convert_time_zone(zone))
    assert pl.read_ipc_stream(body).equals(expected)
    arrow = pytest.importorskip("pyarrow")
    with arrow.ipc.open_stream(body) as reader:
        table = reader.read_all()
    table.validate(full=True)
    assert table.schema.field("ts").type == arrow.timestamp("us", zone)
    assert table.schema.field("source").type == arrow.large_string()
    assert pl.from_arrow(table).equals(expected)


def test_arrow_of_categories_and_of_chunks_in_pieces():
    frame = pl.DataFrame({"c": pl.Series(["a", "b", None], dtype=pl.Categorical), "n": [1, None, 3]})
    chunks = [pl.concat([frame, frame], rechunk=False), frame, frame.clear(), frame[:0], frame[1:]]
    body = get("format=arrow", chunks=chunks, schema=frame.schema).content
    expected = pl.concat(chunks).cast({"c": pl.String})
    assert pl.read_ipc_stream(body).equals(expected)
    arrow = pytest.importorskip("pyarrow")
    with arrow.ipc.open_stream(body) as reader:
        assert reader.read_all().to_pylist() == expected.to_dicts()


@given(st.lists(FRAMES, max_size=4))
def test_arrow_of_any_frames(chunks):
    async def body():
        rows = Rows(chunks=Source(chunks)(), schema=FRAME_SCHEMA, key="rows")
        response = await answer(rows, Format.ARROW)
        return b"".join([piece async for piece in response.body_iterator])

    stream = asyncio.run(body())
    expected = pl.concat([FRAME_SCHEMA.to_frame(), *chunks])
    assert pl.read_ipc_stream(stream).equals(expected)
    arrow = pytest.importorskip("pyarrow")
    with arrow.ipc.open_stream(stream) as reader:
        assert pl.from_arrow(reader.read_all()).equals(expected)


def test_parquet():
    response = get("format=parquet&tz=America/New_York")
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    assert response.headers["content-disposition"] == 'attachment; filename="BRK_B-5m.parquet"'
    expected = pl.concat(CHUNKS).with_columns(pl.col("ts").dt.convert_time_zone("America/New_York"))
    assert pl.read_parquet(response.content).equals(expected)


async def pieces_of(chunks, schema, format):
    """The pieces of a streamed answer, in order."""
    response = await answer(Rows(chunks=Source(chunks)(), schema=schema, key="rows"), format)
    return [piece async for piece in response.body_iterator]


@given(st.lists(FRAMES, max_size=4), st.sampled_from([1, 7, 1000]))
def test_parquet_of_any_frames(chunks, group_cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "GROUP_CELLS", group_cells)
        body = b"".join(asyncio.run(pieces_of(chunks, FRAME_SCHEMA, Format.PARQUET)))
    expected = pl.concat([FRAME_SCHEMA.to_frame(), *chunks])
    assert pl.read_parquet(body).equals(expected)
    assert pl.scan_parquet(body).filter(pl.col("i") > 0).collect().equals(expected.filter(pl.col("i") > 0))
    parquet = pytest.importorskip("pyarrow.parquet")
    assert pl.from_arrow(parquet.read_table(io.BytesIO(body))).equals(expected)


async def test_parquet_leaves_group_by_group():
    rows = encoders.GROUP_CELLS // len(FRAME_SCHEMA)
    page = pl.DataFrame([pl.Series(name, [None] * (rows // 10), dtype) for name, dtype in FRAME_SCHEMA.items()])
    page = page.with_columns(f=pl.int_range(pl.len()).hash(1).cast(pl.Float64))
    pieces = await pieces_of([page] * 100, FRAME_SCHEMA, Format.PARQUET)
    # The magic number, ten groups, the index.
    assert len(pieces) == 12
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) < sum(sizes) / 8
    body = b"".join(pieces)
    assert pl.read_parquet(body).equals(pl.concat([page] * 100))
    last = pl.scan_parquet(body).slice(99 * page.height).collect()  # read from its offset in the file
    assert last.equals(page)


def test_a_chunk_of_nulls_alone_takes_the_type_of_its_column():
    untyped = pl.DataFrame({name: [None] for name in BARS})
    for name, read in (("arrow", pl.read_ipc_stream), ("parquet", pl.read_parquet)):
        frame = read(get(f"format={name}", chunks=[CHUNKS[0], untyped]).content)
        assert frame.schema == BARS
        assert frame.height == 2


def test_large_chunks_leave_in_slices_from_a_thread():
    size = 3 * formats.SLICE_ROWS + 7
    frame = pl.DataFrame({"n": range(size)})
    response = get(chunks=[frame], schema=frame.schema)
    assert [row["n"] for row in response.json()["bars"]] == list(range(size))
    assert pl.read_ipc_stream(get("format=arrow", chunks=[frame], schema=frame.schema).content).equals(frame)


# --- choosing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "json"),
        ("image/png", "json"),
        ("text/csv", "csv"),
        ("TEXT/CSV; charset=utf-8", "csv"),
        ("text/*", "csv"),
        ("text/csv, */*", "csv"),
        ("application/*", "json"),
        ("application/json, text/csv", "json"),
        ("application/json;q=0.5, text/csv;q=0.9", "csv"),
        ("application/json;q=0, */*", "csv"),
        ("application/vnd.apache.arrow.stream", "arrow"),
        ("application/vnd.apache.parquet;q=0.2, application/vnd.apache.arrow.stream; q=0.1", "parquet"),
        ("text/csv;q=0", "json"),
        (";;,,q=1", "json"),
    ],
)
def test_the_accept_header(accept, wanted):
    assert choose_format(None, accept) is Format(wanted)


def test_the_parameter_wins():
    assert choose_format("csv", "application/json") is Format.CSV
    assert get("format=CSV", accept="application/json").headers["content-type"].startswith("text/csv")
    assert get(accept="text/csv").headers["content-type"].startswith("text/csv")


def test_an_unknown_format():
    with pytest.raises(InvalidInput, match=r"^format: got 'xml'; takes json, csv, arrow, parquet$"):
        choose_format("xml", "")


def test_openapi_lists_the_formats():
    document = TestClient(app_for(Source([]))).get("/openapi.json").json()
    operation = document["paths"]["/bars"]["get"]
    assert set(operation["responses"]["200"]["content"]) == set(MEDIA_TYPES.values())
    assert {one["name"] for one in operation["parameters"]} == {"format", "tz"}


# --- faults ------------------------------------------------------------------------------------


@asynccontextmanager
async def served(app):
    """The app behind a real server, which decides how a broken connection looks."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        task = asyncio.create_task(server.serve([listener]))
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            yield client
        server.should_exit = True
        await task


@pytest.mark.parametrize("format_name", ["json", "csv", "arrow", "parquet"])
def test_a_fault_of_the_query_has_its_status(format_name):
    source = Source([], fault=DatabaseUnavailable())
    response = TestClient(app_for(source)).get(f"/bars?format={format_name}")
    assert response.status_code == 503
    assert source.closed.is_set()


@pytest.mark.parametrize("format_name", ["json", "csv", "arrow", "parquet"])
@pytest.mark.parametrize("fault", [RuntimeError("lost"), DatabaseUnavailable(), ConnectionResetError()], ids=repr)
async def test_a_fault_on_the_way_breaks_the_connection(format_name, fault):
    source = Source(CHUNKS, fault)
    with structlog.testing.capture_logs() as logs:
        async with served(app_for(source)) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get(f"/bars?format={format_name}")
    assert [log["event"] for log in logs] == ["request_failed"]
    error = logs[0]["exc_info"]
    assert fault in (error, error.__cause__)
    assert source.closed.is_set()


async def test_a_client_that_leaves_ends_the_query():
    source = Source([pl.DataFrame({"n": range(20_000)})] * 1_000)
    async with served(app_for(source, pl.Schema({"n": pl.Int64()}))) as client:
        async with client.stream("GET", "/bars") as response:
            await anext(response.aiter_bytes())
        async with asyncio.timeout(10):
            await source.closed.wait()
    assert source.taken < 100  # and rows that were not requested were not read
