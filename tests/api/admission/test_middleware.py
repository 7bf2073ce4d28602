"""Refusals on the way into an app, over HTTP and WebSocket."""

from ipaddress import ip_network
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.middleware import Middleware
from starlette.testclient import TestClient, WebSocketDenialResponse

from stockpulse.api import error_responses
from stockpulse.api.admission.callers import Callers
from stockpulse.api.admission.hosts import Hosts
from stockpulse.api.admission.middleware import Admission
from stockpulse.api.browser_headers import BROWSER_HEADERS, BrowserHeaders, policy

SOCKET = "ws://localhost:8000/socket"
JSON = {"Content-Type": "application/json"}


def client(peer: str = "127.0.0.1", **options: Any) -> TestClient:
    admission = Middleware(Admission, callers=Callers([ip_network("198.51.100.0/24")]), hosts=Hosts())
    app = FastAPI(middleware=[Middleware(BrowserHeaders), admission], redirect_slashes=False)
    error_responses.install(app)

    @app.get("/thing")
    @app.post("/thing")
    @app.delete("/thing")
    def thing() -> str:
        return "served"

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("served")
        await websocket.close()

    return TestClient(
        app, base_url="http://localhost:8000", client=(peer, 5000), raise_server_exceptions=False, **options
    )


def error(answer: Any, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert body["code"] == code
    return str(body["message"])


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "198.51.100.7"])
def test_trusted_callers_are_served(peer: str) -> None:
    assert client(peer).get("/thing").json() == "served"
    assert client(peer).post("/thing", headers=JSON).json() == "served"


def test_others_are_told_what_to_set() -> None:
    for answer in (client("192.0.2.1").get("/thing"), client("192.0.2.1").get("/nowhere")):
        message = error(answer, 403, "FORBIDDEN")
        assert "192.0.2.1" in message
        assert "STOCKPULSE_TRUSTED_NETWORKS" in message


def test_others_do_not_become_ours_by_a_header() -> None:
    error(client("192.0.2.1").get("/thing", headers={"X-Forwarded-For": "127.0.0.1"}), 403, "FORBIDDEN")


def test_a_foreign_name_is_told_what_to_set() -> None:
    for host in ("rebind.test", "rebind.test:8000", ""):
        message = error(client().get("/thing", headers={"Host": host}), 421, "MISDIRECTED_REQUEST")
        assert "STOCKPULSE_HOSTS" in message


def test_changes_need_a_content_type() -> None:
    for method in ("POST", "DELETE"):
        assert "Content-Type" in error(client().request(method, "/thing"), 422, "INVALID_INPUT")
        answer = client().request(method, "/thing", headers=JSON | {"Origin": "http://evil.test"})
        error(answer, 403, "FORBIDDEN")


def test_a_websocket_of_a_foreign_page_is_refused() -> None:
    with client().websocket_connect(SOCKET) as socket:
        assert socket.receive_text() == "served"
    with client().websocket_connect(
        "ws://localhost:8000/socket", headers={"Origin": "http://localhost:8000"}
    ) as socket:
        assert socket.receive_text() == "served"
    for one, headers, status in (
        (client(), {"Origin": "http://evil.test"}, 403),
        (client(), {"Host": "rebind.test"}, 421),
        (client("192.0.2.1"), {}, 403),
    ):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            one.websocket_connect(SOCKET, headers=headers),
        ):
            pass
        assert refused.value.status_code == status
        assert list(refused.value.json()) == ["error"]


@pytest.mark.thorough
@pytest.mark.parametrize("path", ["/thing", "/nowhere", "/broken"])
def test_every_answer_tells_browsers_what_it_may_do(path: str) -> None:
    for one in (client(), client("192.0.2.1")):
        answer = one.get(path)
        assert {name: answer.headers.get(name) for name in BROWSER_HEADERS} == BROWSER_HEADERS


def test_a_page_may_allow_more_and_keeps_the_rest() -> None:
    (text,) = policy(script_src="'self'", base_uri="'self'").values()
    assert text == (
        "default-src 'none'; script-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
    )
