"""Upserts of many rows: COPY into a temporary table, then one INSERT that resolves conflicts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from stockpulse.postgres.binary_copy import Layout, in_slices
from stockpulse.postgres.connect import Connection, copy_in

_SECONDS: Final = 60


class Staging:
    """Upserts into one table; `key` names the columns of its unique key."""

    def __init__(
        self, table: str, layout: Layout, key: Sequence[str], *, guard: str = "", nulls: Mapping[str, str] | None = None
    ) -> None:
        """`guard` is the SQL condition under which a new row (`excluded`) replaces a stored one (`t`).

        `nulls` maps a column to the SQL value that stands for null in the staged rows: a `Layout` has no nulls.
        """
        self._staged = f"staged_{table}"
        self._table = table
        self._layout = layout
        names = ", ".join(layout.columns)
        values = ", ".join(f"nullif({one}, {nulls[one]})" if nulls and one in nulls else one for one in layout.columns)
        assignments = ", ".join(f"{one} = excluded.{one}" for one in layout.columns if one not in key)
        self._insert = (
            f"INSERT INTO {table} AS t ({names}) SELECT {values} FROM {self._staged}"  # noqa: S608 - names of ours
            f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {assignments} {guard and f'WHERE {guard}'}"
        )

    async def make(self, connection: Connection) -> None:
        """Create the temporary table, once for each connection."""
        await connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {self._staged} (LIKE {self._table}) ON COMMIT DELETE ROWS"
        )

    async def write(self, connection: Connection, columns: Mapping[str, Any]) -> None:
        """Upsert rows within a transaction; `columns` has an array for each column of the layout."""
        if len(next(iter(columns.values()))) == 0:
            return
        pieces = in_slices(self._layout.pack(columns))
        await copy_in(connection, self._staged, self._layout.columns, pieces, _SECONDS)
        await connection.execute(self._insert, timeout=_SECONDS)
