"""The names of this server: a request must name one of them, and a page that changes something comes from one.

A browser that was led to a foreign name whose address is that of this machine (DNS rebinding) still sends that name.
"""

import re
import socket
from collections.abc import Iterable
from typing import Final

OWN_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")

_NAME: Final = r"(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)"
_HOST: Final = re.compile(rf"(?P<name>{_NAME})(?::[0-9]{{1,5}})?", re.ASCII)
_ORIGIN: Final = re.compile(rf"https?://(?P<host>{_NAME}(?::[0-9]{{1,5}})?)", re.ASCII)


def read_host_name(text: str) -> str | None:
    """Return a host name in lower case, an IPv6 address in brackets; None if the text is neither."""
    found = _HOST.fullmatch(text.strip().lower())
    return found["name"] if found and found["name"] == found[0] else None


def read_origin(text: str) -> str | None:
    """Return an origin in the form of browsers (scheme, host and port, in lower case); None for any other text."""
    found = _ORIGIN.fullmatch(text.strip().lower().removesuffix("/"))
    return found[0] if found else None


class Hosts:
    """The names and origins that are ours."""

    def __init__(self, names: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        machine = read_host_name(socket.gethostname())
        self.names = tuple(dict.fromkeys((*OWN_NAMES, *([machine] if machine else []), *names)))
        self._origins = frozenset(origins)

    def is_ours(self, host: str) -> bool:
        """Return True if a Host header has one of our names, with any port."""
        found = _HOST.fullmatch(host.lower())
        return found is not None and found["name"] in self.names

    def is_our_origin(self, origin: str, host: str) -> bool:
        """Return True for a page of the host and port that were asked, or of an origin of the settings."""
        found = _ORIGIN.fullmatch(origin.lower())
        return found is not None and (found["host"] == host.lower() or found[0] in self._origins)
