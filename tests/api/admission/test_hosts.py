"""The names and origins of this server."""

import socket

import pytest

from stockpulse.api.admission.hosts import Hosts, read_host_name, read_origin

OURS = Hosts(names=["market.example"], origins=["https://desk.example"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost:1",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:8000",
        "market.example",
        "market.example:443",
        socket.gethostname(),
        f"{socket.gethostname().upper()}:80",
    ],
)
def test_our_names(host: str) -> None:
    assert OURS.is_ours(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "rebind.test",
        "rebind.test:8000",
        "localhost.rebind.test",
        "localhost@rebind.test",
        "localhost:",
        ":8000",
        "localhost:8000:8000",
        "127.0.0.1.",
        "127.0.0.2",
        "127.1",
        "::1",
        "[::1",
        "localhost/",
        "localhost ",
        "x\0",
        "localhost, rebind.test",
        "market.example.",
        "sub.market.example",
        "localhost:\uff11",
        "a" * 70_000,
    ],
)
def test_other_names(host: str) -> None:
    assert not OURS.is_ours(host)


def test_a_page_of_the_host_that_was_asked_is_ours() -> None:
    assert OURS.is_our_origin("http://localhost:8000", "localhost:8000")
    assert OURS.is_our_origin("https://market.example", "market.example")
    assert OURS.is_our_origin("http://LOCALHOST:8000", "localhost:8000")
    assert OURS.is_our_origin("https://desk.example", "localhost:8000")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://localhost",
        "http://localhost:3000",
        "http://127.0.0.1:8000",
        "https://evil.test",
        "file://",
        "chrome-extension://localhost:8000",
        "http://localhost:8000/x",
        "http://desk.example",
        "http://localhost:8000, http://localhost:8000",
        "localhost:8000",
    ],
)
def test_a_page_of_another_is_not(origin: str) -> None:
    assert not OURS.is_our_origin(origin, "localhost:8000")


@pytest.mark.parametrize(
    ("text", "name"),
    [("Market.Example", "market.example"), ("[::1]", "[::1]"), ("a:80", None), ("http://a", None), ("*", None)],
)
def test_names_in_the_settings(text: str, name: str | None) -> None:
    assert read_host_name(text) == name


@pytest.mark.parametrize(
    ("text", "origin"),
    [("https://Desk.Example/", "https://desk.example"), ("http://a:80", "http://a:80"), ("a:80", None), ("*", None)],
)
def test_origins_in_the_settings(text: str, origin: str | None) -> None:
    assert read_origin(text) == origin
