"""A page of another site in a real browser changes nothing and reads nothing; our own pages work under their policy."""

import json
import queue
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from app_process import AppProcess
from chromium import chromium, page_of, visiting

PAGE = Path(__file__).with_name("attack.html")
TICK = {"symbol": "OURS", "ts": "2026-03-02T14:30:00Z", "price": 10, "size": 1}
SENT_BLINDLY = {"blob", "array", "text", "json_blob", "header", "end", "retry"}
"""The browser sends these without asking; the page is not shown the answer."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Iterator[AppProcess]:
    chromium()
    with AppProcess(tmp_path_factory.mktemp("attacked"), cache_dir=str(compiled)) as running:
        httpx2.post(f"{running.url}/ticks", json=[TICK]).raise_for_status()
        yield running


@pytest.fixture
def evil() -> Iterator[tuple[int, "queue.Queue[dict[str, object]]"]]:
    """Serve the attacking page; return its port and what it reports."""
    reports: queue.Queue[dict[str, object]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.read_bytes())

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, reports
        server.shutdown()


def refused(app: AppProcess) -> int:
    """Return the number of changes that the app has refused."""
    metrics = httpx2.get(f"{app.url}/metrics").text
    counts = re.findall(r'requests_total\{method="(?:POST|DELETE)",.*status="(?:403|422)"\} (\d+)', metrics)
    return sum(map(int, counts))


@pytest.mark.thorough
@pytest.mark.parametrize("site", ["evil.test", "localhost"])
def test_a_page_of_another_origin_changes_nothing(
    app: AppProcess, evil: tuple[int, "queue.Queue[dict[str, object]]"], site: str
) -> None:
    port, reports = evil
    before = refused(app)
    with visiting(f"http://{site}:{port}/?target={app.url}"):
        results = reports.get(timeout=60)
    assert {results[name] for name in (*SENT_BLINDLY, "asked", "forget", "read")} == {"TypeError"}
    assert results["beacon"] is True
    assert results["socket"] == "refused"
    assert refused(app) - before >= len(SENT_BLINDLY) + 2  # the beacon and the form arrive too
    assert httpx2.get(f"{app.url}/symbols").json() == {"symbols": ["OURS"]}
    assert httpx2.get(f"{app.url}/ticks/latest?symbol=OURS").json()["count"] == 1


def test_a_rebound_name_reads_nothing(app: AppProcess) -> None:
    document, _ = page_of(f"http://rebind.test:{app.port}/ticks/latest?symbol=OURS")
    assert "MISDIRECTED_REQUEST" in document
    assert "OURS" not in document.replace("symbol=OURS", "")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("path", "content"), [("/docs", "opblock-summary"), ("/redoc", "operation/post_ticks"), ("/manual", "<nav")]
)
def test_our_pages_work_under_their_policy(app: AppProcess, path: str, content: str) -> None:
    document, console = page_of(app.url + path)
    assert content in document
    blocked = [line for line in console.splitlines() if "Content Security Policy" in line]
    assert [line for line in blocked if "https://cdn.redoc.ly/redoc/logo-mini.svg" not in line] == []


@pytest.mark.thorough
def test_our_pages_cannot_be_framed(app: AppProcess) -> None:
    for path in ("/docs", "/redoc", "/manual", "/symbols", "/nothing"):
        assert "frame-ancestors 'none'" in httpx2.get(app.url + path).headers["content-security-policy"]
