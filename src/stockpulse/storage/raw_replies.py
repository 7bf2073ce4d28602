"""The newest replies of providers, as they came: `raw_market_data`, bounded in size and age."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import orjson

from stockpulse.market.rows import CUT
from stockpulse.postgres.connect import Pool
from stockpulse.providers.transport.rest_client import Reply

LONGEST_BODY: Final = 256 * 1024
"""Longer bodies are cut: the beginning shows the shape of a reply."""

_INSERT = """
INSERT INTO raw_market_data (received_at, provider, path, params, status, outcome, body, body_bytes)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8)
"""
_TRIM = """
DELETE FROM raw_market_data WHERE received_at < $1 OR id <= coalesce((
    SELECT max(id) FROM (SELECT id, sum(body_bytes) OVER (ORDER BY id DESC) AS newer FROM raw_market_data) AS sums
    WHERE newer > $2
), 0)
"""


def body_of(reply: Reply) -> str:
    """Return the body of a reply as a text that PostgreSQL takes: valid, without null characters, not too long."""
    text = reply.body[:LONGEST_BODY].decode(errors="replace").replace("\0", "\ufffd")
    return text + CUT if len(reply.body) > LONGEST_BODY else text


class RawReplies:
    """Writes and trims `raw_market_data`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def write(self, replies: Sequence[tuple[Reply, str]]) -> None:
        """Store replies with their outcomes."""
        rows = []
        for reply, outcome in replies:
            body, params = body_of(reply), orjson.dumps(dict(reply.params)).decode()
            size = len(body.encode())
            rows.append((reply.received_at, reply.provider, reply.path, params, reply.status, outcome, body, size))
        await self._pool.executemany(_INSERT, rows)

    async def trim(self, before: datetime, most_bytes: int) -> None:
        """Delete the replies of before this time, and the oldest ones beyond a total size of the bodies."""
        await self._pool.execute(_TRIM, before, most_bytes)
