"""Clients that send too much, too slowly or over too many connections, against a real uvicorn."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from app_process import AppProcess

GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /api/v1/ticks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
SETTINGS = {
    "max_header_kb": "8",
    "header_seconds": "1.5",
    "body_seconds": "1.5",
    "idle_seconds": "2",
    "max_connections": "60",
    "max_connections_per_peer": "40",
}
PER_PEER = 40
LONGEST_WAIT = 20


@pytest.fixture(scope="module", params=["httptools", "h11"])
def app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compiled: Path
) -> Iterator[AppProcess]:
    folder = tmp_path_factory.mktemp("limits")
    with AppProcess(folder, "--http", request.param, cache_dir=str(compiled), **SETTINGS) as running:
        yield running


def connect(app: AppProcess, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", app.port), timeout=LONGEST_WAIT, source_address=(source, 0))


@contextmanager
def many(app: AppProcess, number: int, first: bytes, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            opened.append(stack.enter_context(connect(app, source)))
            opened[-1].sendall(first)
        yield opened


def answer(connection: socket.socket) -> tuple[int, dict[str, str], str]:
    """Read until the server closes: the status, the headers, the code of the error."""
    text = b""
    while piece := connection.recv(65536):
        text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body)["error"]["code"]


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def ends(connection: socket.socket, send: Callable[[], bytes] = lambda: b"") -> None:
    """Wait until the server has closed a connection that goes on to send."""
    deadline = time.monotonic() + LONGEST_WAIT
    while is_open(connection):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        try:
            connection.send(send())
        except OSError:
            return


def closed(app: AppProcess, reason: str) -> int:
    report = httpx2.get(f"{app.url}/health").json()["connections"]
    assert report["fault"] is None
    return int(report["closed"][reason])


def served(app: AppProcess, source: str = "127.0.0.1") -> None:
    with connect(app, source) as connection:
        connection.sendall(GET + b"Connection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_the_server_is_guarded(app: AppProcess) -> None:
    """Fails if a new version of uvicorn makes its protocols in another way."""
    report = httpx2.get(f"{app.url}/health").json()["connections"]
    assert report["fault"] is None
    assert report["open"] > 0
    assert (report["limit"], report["limit_per_peer"]) == (60, PER_PEER)
    assert "stockpulse_connections " in (text := httpx2.get(f"{app.url}/metrics").text)
    assert 'stockpulse_connections_closed_total{reason="per_peer"}' in text


class TestHeaders:
    @pytest.mark.parametrize(
        "start",
        [b"GET /", GET + b"X-Long: ", GET + b"X-1: 1\r\n" * 300 + b"X-2: ", b"GET /health?" + b"a" * 8000],
        ids=["address", "one field", "many fields", "query"],
    )
    def test_an_endless_header(self, app: AppProcess, start: bytes) -> None:
        before = closed(app, "header_size")
        with connect(app) as connection:
            connection.sendall(start)
            with suppress(OSError):  # the server may have closed the connection
                for _ in range(200):
                    connection.sendall(b"a" * 65536)
            status, headers, code = answer(connection)
        assert (status, code, headers["connection"]) == (431, "HEADER_TOO_LARGE", "close")
        assert closed(app, "header_size") == before + 1

    def test_the_bound(self, app: AppProcess) -> None:
        """Exactly the limit is accepted, one byte more is not; the bytes of the body do not count."""
        for more, status in ((0, 422), (1, 431)):
            head = POST + b"Connection: close\r\nContent-Length: 100000\r\nX: "
            head += b"a" * (8192 + more - len(head) - 4) + b"\r\n\r\n"
            with connect(app) as connection:
                connection.sendall(head + b" " * 100_000)
                assert answer(connection)[0] == status

    def test_the_second_header_of_a_connection(self, app: AppProcess) -> None:
        with connect(app) as connection:
            connection.sendall(GET + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(GET + b"X: " + b"a" * 9000)
            assert answer(connection)[0] == 431

    def test_fields_after_the_body(self, app: AppProcess) -> None:
        with connect(app) as connection:
            connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\nX: ")
            ends(connection, lambda: b"a" * 4096)

    def test_many_requests_at_once(self, app: AppProcess) -> None:
        """Together they are longer than one header may be."""
        with connect(app) as connection:
            connection.sendall((GET + b"X: " + b"a" * 3000 + b"\r\n\r\n") * 9 + GET + b"Connection: close\r\n\r\n")
            text = b""
            while piece := connection.recv(65536):
                text += piece
        assert text.count(b"HTTP/1.1 200 OK") == 10

    @pytest.mark.parametrize("start", [b"G", GET + b"X"])
    def test_a_slow_header(self, app: AppProcess, start: bytes) -> None:
        with connect(app) as connection:
            connection.sendall(start)
            status, _, code = answer(connection)
            assert (status, code) == (408, "REQUEST_TIMEOUT")

    def test_a_header_that_goes_on_slowly(self, app: AppProcess) -> None:
        with connect(app) as connection:
            connection.sendall(GET + b"X: ")
            ends(connection, lambda: b"a")
        assert closed(app, "header_time") > 0


class TestBodies:
    def test_a_body_that_stops(self, app: AppProcess) -> None:
        with connect(app) as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n[")
            status, _, code = answer(connection)
            assert (status, code) == (408, "REQUEST_TIMEOUT")

    def test_a_body_that_goes_on_slowly(self, app: AppProcess) -> None:
        with connect(app) as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n[")
            ends(connection, lambda: b" ")
        assert closed(app, "body_time") > 0

    def test_a_client_that_waits_to_be_asked(self, app: AppProcess) -> None:
        """`Expect: 100-continue`: the server asks for the body, and then the client's time begins."""
        with connect(app) as connection:
            connection.sendall(POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
            connection.sendall(b"[]")
            assert connection.recv(100).startswith(b"HTTP/1.1 2")

    def test_a_body_with_pauses(self, app: AppProcess) -> None:
        with connect(app) as connection:
            connection.sendall(POST + b"Connection: close\r\nContent-Length: 5001\r\n\r\n[")
            for _ in range(5):
                time.sleep(0.6)
                connection.sendall(b" " * 999 + b"\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 422")  # no JSON, but whole


class TestIdle:
    @pytest.mark.parametrize("first", [b"", GET + b"\r\n"], ids=["new", "after a request"])
    def test_an_idle_connection_is_closed(self, app: AppProcess, first: bytes) -> None:
        with connect(app) as connection:
            connection.sendall(first)
            ends(connection)

    def test_a_client_that_does_not_read(self, app: AppProcess) -> None:
        before = closed(app, "stalled_answer")
        with connect(app) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.sendall((b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") * 100)
            deadline = time.monotonic() + LONGEST_WAIT
            while closed(app, "stalled_answer") == before:
                assert time.monotonic() < deadline
                time.sleep(0.2)


class TestNumbers:
    def test_slow_connections_make_room(self, app: AppProcess) -> None:
        with many(app, 3 * PER_PEER, GET + b"X: ") as opened:
            time.sleep(1)
            served(app)
            assert sum(map(is_open, opened)) <= PER_PEER

    def test_slow_bodies_make_room(self, app: AppProcess) -> None:
        with many(app, PER_PEER, POST + b"Content-Length: 1000\r\n\r\n["):
            time.sleep(1)
            served(app)

    def test_a_peer_with_too_many_is_refused(self, app: AppProcess) -> None:
        """Its connections are too young to make room."""
        before = closed(app, "per_peer")
        with many(app, PER_PEER + 10, b"") as opened:
            status, headers, code = answer(opened[-1])
        assert (status, code, headers["retry-after"]) == (429, "TOO_MANY_CONNECTIONS", "1")
        assert closed(app, "per_peer") > before

    def test_another_peer_is_served(self, app: AppProcess) -> None:
        with many(app, PER_PEER, b"", source="127.0.0.2"):
            served(app, "127.0.0.3")

    def test_all_together_are_limited(self, app: AppProcess) -> None:
        with many(app, 35, b"", "127.0.0.4"), many(app, 35, b"", "127.0.0.5") as later:
            status, headers, code = answer(later[-1])
            assert (status, code, headers["retry-after"]) == (503, "TOO_MANY_CONNECTIONS", "1")
            time.sleep(1)
            served(app, "127.0.0.6")

    def test_closed_connections_do_not_count(self, app: AppProcess) -> None:
        for _ in range(5):
            with many(app, PER_PEER - 5, GET + b"\r\n"):
                pass
        app.wait_for("/health", lambda health: health["connections"]["open"] < 5)

    def test_a_websocket_is_closed_and_not_counted_any_more(self, app: AppProcess) -> None:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        for _ in range(3):
            with connect(app) as connection:
                connection.sendall(GET + upgrade + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 4")
        app.wait_for("/health", lambda health: health["connections"]["open"] < 5)


@pytest.mark.thorough
def test_few_file_descriptors(tmp_path: Path, compiled: Path) -> None:
    with AppProcess(tmp_path, cache_dir=str(compiled), most_files=256) as app:
        report = httpx2.get(f"{app.url}/health").json()["connections"]
        assert 50 < report["limit"] < 200
        assert "few_file_descriptors" in app.log.read_text()
        with many(app, 500, GET + b"X: "):
            time.sleep(2)
            for _ in range(20):
                served(app)
                assert httpx2.get(f"{app.url}/ready").status_code == 200


def whole(connection: socket.socket) -> bytes:
    """Return the next answer of /version on a connection."""
    text = b""
    while not text.endswith(b"}"):
        text += connection.recv(4096)
    return text


@pytest.mark.thorough
def test_five_hundred_clients_of_one_machine(tmp_path: Path, compiled: Path) -> None:
    with AppProcess(tmp_path, cache_dir=str(compiled)) as app, many(app, 500, b"") as opened:
        for _ in range(3):
            for connection in opened:
                connection.sendall(b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert all(whole(connection).startswith(b"HTTP/1.1 200") for connection in opened)
        assert set(httpx2.get(f"{app.url}/health").json()["connections"]["closed"].values()) == {0}


class OnUnixSocket(AppProcess):
    """An app that listens on a Unix socket."""

    def client(self) -> httpx2.Client:
        return httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.data_dir / "socket")), base_url=self.url)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + LONGEST_WAIT
        while not (self.data_dir / "socket").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with self.client() as client:
            assert client.get("/ready").status_code == 200


@pytest.mark.thorough
def test_a_unix_socket(tmp_path: Path, compiled: Path) -> None:
    path = str(tmp_path / "socket")
    with OnUnixSocket(tmp_path, "--uds", path, cache_dir=str(compiled), **SETTINGS) as app, ExitStack() as stack:
        for _ in range(PER_PEER + 10):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(LONGEST_WAIT)
            connection.connect(path)
        assert answer(connection)[0] == 429
        time.sleep(1)
        with app.client() as client:
            report = client.get("/health").json()["connections"]
        assert report["fault"] is None
        assert report["closed"]["per_peer"] > 0
