"""The caller of a request, from scopes of uvicorn."""

from ipaddress import ip_network
from typing import Any

import pytest

from stockpulse.api.admission.callers import Caller, Callers

ALONE = Callers()
BRIDGE = Callers([ip_network("172.28.0.0/24"), ip_network("fd00::/8")])


def scope(client: str | None, *forwarded: str, server: Any = ("127.0.0.1", 8000)) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"type": "http", "client": client and (client, 5000), "server": server, "headers": headers}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_answered(address: str) -> None:
    assert ALONE.of(scope(address)).is_trusted


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "10.0.0.1",
        "0.0.0.0",
        "2001:db8::1",
        "fe80::1%eth0",
        "::ffff:192.0.2.1",
        "::127.0.0.1",
        "nobody",
        "",
    ],
)
def test_nobody_else_is(address: str) -> None:
    assert not ALONE.of(scope(address or "-")).is_trusted


def test_a_unix_socket_is_of_this_machine() -> None:
    assert ALONE.of(scope(None, server=("/run/stockpulse.sock", None))).is_trusted
    assert ALONE.of(scope(None, server=None)).is_trusted


def test_a_connection_that_was_reset_is_of_nobody() -> None:
    """uvicorn knows no address of such a peer, and its request can still be read."""
    assert not BRIDGE.of(scope(None, server=("192.0.2.7", 8000))).is_trusted


def test_networks_of_the_settings_are_answered() -> None:
    assert BRIDGE.of(scope("172.28.0.1")) == Caller("172.28.0.1", is_trusted=True)
    assert BRIDGE.of(scope("::ffff:172.28.0.1")).is_trusted
    assert BRIDGE.of(scope("fd12::1")).is_trusted
    assert not BRIDGE.of(scope("172.28.1.1")).is_trusted


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:5000"], "192.0.2.1"),
        (["[2001:db8::1]:5000"], "2001:db8::1"),
        (["127.0.0.1, 192.0.2.1"], "192.0.2.1"),  # the client itself writes the left-most address
        (["127.0.0.1", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 127.0.0.1, ::1"], "192.0.2.1"),
        (["192.0.2.1, 198.51.100.1, 127.0.0.1"], "198.51.100.1"),
        (["unknown"], "unknown"),
        (["127.0.0.1, _hidden"], "_hidden"),
        (["192.0.2.1,,"], "192.0.2.1"),
    ],
)
def test_a_proxy_of_this_machine_is_judged_by_whom_it_forwards_for(forwarded: list[str], caller: str) -> None:
    assert ALONE.of(scope("127.0.0.1", *forwarded)) == Caller(caller, is_trusted=False)
    assert ALONE.of(scope(None, *forwarded, server=None)) == Caller(caller, is_trusted=False)


@pytest.mark.parametrize("forwarded", [[], [""], [" , "], ["127.0.0.1"], ["127.0.0.2, 127.0.0.1:80"]])
def test_a_proxy_that_forwards_for_this_machine_is_answered(forwarded: list[str]) -> None:
    assert ALONE.of(scope("127.0.0.1", *forwarded)).is_trusted


def test_a_chain_of_trusted_proxies_is_followed_to_its_start() -> None:
    assert BRIDGE.of(scope("172.28.0.5", "192.0.2.1, 172.28.0.4")) == Caller("192.0.2.1", is_trusted=False)
    assert BRIDGE.of(scope("172.28.0.5", "172.28.0.9, 172.28.0.4")) == Caller("172.28.0.9", is_trusted=True)


def test_nobody_else_speaks_for_others() -> None:
    assert ALONE.of(scope("192.0.2.1", "127.0.0.1")) == Caller("192.0.2.1", is_trusted=False)
