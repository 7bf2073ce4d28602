"""The caller of a request: the address of the peer, or the address that a trusted proxy forwards."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

Network = IPv4Network | IPv6Network

_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_UNIX_SOCKET: Final = "a local socket"
_UNKNOWN: Final = "an unknown address"
_REMEMBERED_ADDRESSES: Final = 4096


@dataclass(frozen=True)
class Caller:
    """The caller of a request. `is_trusted` is True for an address of this machine or of a trusted network."""

    address: str
    is_trusted: bool


class Callers:
    """Finds the caller of a request. API keys will be read here too."""

    def __init__(self, trusted_networks: Iterable[Network] = ()) -> None:
        self._networks = (*_LOOPBACK, *trusted_networks)
        self._trusts = lru_cache(_REMEMBERED_ADDRESSES)(self._is_trusted)

    def of(self, scope: Scope) -> Caller:
        """Return the caller.

        A trusted peer with an X-Forwarded-For header is a proxy: then the caller is the right-most address in it that
        is not trusted, because each proxy appends the address that it saw. Any client can write the addresses further
        left.
        """
        address = _peer(scope)
        trusted = address == _UNIX_SOCKET or self._trusts(address)
        if trusted and (forwarded := _forwarded(scope)):
            address = next((one for one in reversed(forwarded) if not self._trusts(one)), forwarded[0])
            trusted = self._trusts(address)
        return Caller(address, trusted)

    def _is_trusted(self, text: str) -> bool:
        try:
            address: IPv4Address | IPv6Address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return any(address in network for network in self._networks)


def _peer(scope: Scope) -> str:
    """Return the address of the other end of the connection.

    A Unix socket has no address. A TCP connection that its peer has reset has none either, although its data can still
    be read, so the port of our own end distinguishes the two cases.
    """
    if scope.get("client"):
        return str(scope["client"][0])
    server = scope.get("server")
    return _UNKNOWN if server and server[1] is not None else _UNIX_SOCKET


def _forwarded(scope: Scope) -> list[str]:
    """Return the addresses of X-Forwarded-For in their order, without ports."""
    values = Headers(scope=scope).getlist("x-forwarded-for")
    return [_without_port(text) for value in values for part in value.split(",") if (text := part.strip())]


def _without_port(text: str) -> str:
    """Return `192.0.2.1` for `192.0.2.1:5000`, and `2001:db8::1` for `[2001:db8::1]:5000`."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
