"""Requests that a web page can send without asking change nothing."""

import pytest
from starlette.datastructures import Headers

from stockpulse.api.admission.changes import is_change, refusal_of_change
from stockpulse.api.admission.hosts import Hosts
from stockpulse.errors import Forbidden, InvalidInput, StockPulseError

HOSTS = Hosts()
JSON = {"content-type": "application/json"}


def refusal(*pairs: tuple[str, str], **headers: str) -> StockPulseError | None:
    given = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (*given.items(), *pairs)]
    return refusal_of_change(Headers(raw=raw), HOSTS)


def test_methods_that_change_something() -> None:
    assert [method for method in ("GET", "HEAD", "OPTIONS", "TRACE") if is_change(method)] == []
    assert all(is_change(method) for method in ("POST", "PUT", "PATCH", "DELETE", "BREW"))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
    ],
)
def test_types_that_a_page_has_to_ask_for(content_type: str) -> None:
    assert refusal(content_type=content_type) is None


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "TEXT/plain;charset=UTF-8",
        " text/plain ",
        "text/plain;application/json",
        ";application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
def test_types_that_a_page_may_send(content_type: str) -> None:
    found = refusal(content_type=content_type)
    assert isinstance(found, InvalidInput)
    assert found.field == "Content-Type"
    assert "takes application/json" in str(found)


def test_no_type_at_all() -> None:
    assert isinstance(refusal(), InvalidInput)


def test_each_of_several_types_counts() -> None:
    assert isinstance(refusal(("content-type", "application/json"), ("content-type", "text/plain")), InvalidInput)


def test_a_page_of_ours() -> None:
    assert refusal(**JSON, origin="http://localhost:8000", sec_fetch_site="same-origin") is None


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://localhost:3000"])
def test_a_page_of_another(origin: str) -> None:
    found = refusal(**JSON, origin=origin)
    assert isinstance(found, Forbidden)
    assert origin in str(found)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_that_does_not_say_its_origin(site: str) -> None:
    assert isinstance(refusal(**JSON, sec_fetch_site=site), Forbidden)


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_page_of_ours_and_a_person(site: str) -> None:
    assert refusal(**JSON, sec_fetch_site=site) is None
