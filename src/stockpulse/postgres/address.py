"""Reads the address of a database in the forms of cloud services and other programs, for the app and for Alembic."""

import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from stockpulse.errors import InvalidInput

_TAKES: Final = (
    "takes an address that begins with postgresql://: postgresql://user:password@host:port/database; "
    "in a password, write %2F for /, %23 for #, %3F for ? and %25 for %"
)
_ADDRESS: Final = re.compile(r"postgres(ql)?(\+\w+)?://(?P<place>[^/?#]*)(/(?P<name>[^/?#]*))?(\?(?P<query>[^#]*))?")
_HOSTS: Final = re.compile(r"([^:,\[\]@]*|\[[0-9A-Fa-f:.%]+\])(:\d{1,5})?")

#: Parameters of the client libraries of others, which the server would refuse as settings that it does not know.
_OF_OTHER_CLIENTS: Final = frozenset(
    {
        "async_fallback",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "connection_limit",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "pgbouncer",
        "pool_timeout",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)


def normal_dsn(url: str) -> str:
    """Return the address in the driver's form. Raises InvalidInput, without any part of the address in its message.

    Takes `postgres://`, `postgresql://` and SQLAlchemy's `postgresql+asyncpg://` with its `ssl=`, sockets, several
    hosts, and libpq's parameters.
    """
    found = _ADDRESS.fullmatch(url.strip())
    if found is None:
        raise InvalidInput("database address", _TAKES)
    account, at, hosts = found["place"].rpartition("@")
    if not all(_HOSTS.fullmatch(host) for host in hosts.split(",")):
        raise InvalidInput("database address", _TAKES)
    user, colon, password = account.partition(":")
    place = f"{_encoded(user)}{colon}{_encoded(password)}{at}{hosts}"
    query = _query(found["query"] or "")
    return f"postgresql://{place}/{found['name'] or ''}{'?' if query else ''}{query}"


def _encoded(text: str) -> str:
    """Percent-encode characters that are not encoded yet, such as an @ in a password."""
    return quote(unquote(text), safe="")


def _query(query: str) -> str:
    parameters = [("sslmode" if name == "ssl" else name, value) for name, value in parse_qsl(query)]
    return urlencode([one for one in parameters if one[0] not in _OF_OTHER_CLIENTS], safe="/:,@", quote_via=quote)
