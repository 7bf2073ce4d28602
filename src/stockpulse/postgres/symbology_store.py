"""The ids of symbols, providers and kinds of ticks in the database."""

from collections.abc import Iterable
from typing import Any

from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import Names, ProviderName, Symbol, TickKind
from stockpulse.postgres.connect import Pool


class NameStore:
    """Assigns ids to new names. An id is committed before anything refers to it."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self.names = names

    async def load(self) -> None:
        """Read the names that are not in memory yet, and all providers, whose clocks may have changed."""
        # Other processes assign ids as well, so an id that is new here may be smaller than the greatest one known.
        async with self._pool.acquire() as connection:
            symbols = await connection.fetch(
                "SELECT id, symbol, calendar FROM symbols WHERE id <> ALL($1::int[])", list(self.names.symbol_by_id)
            )
            providers = await connection.fetch("SELECT id, name, clock, delay_us FROM providers")
            kinds = await connection.fetch(
                "SELECT id, provider_id, exchange, conditions, flags, tape FROM tick_kinds WHERE id <> ALL($1::int[])",
                list(self.names.kind_by_id),
            )
        self.names.add_symbols(Symbol(*row) for row in symbols)
        for row in providers:
            self._add_provider(row)
        self.names.add_kinds((number, TickKind(*rest)) for number, *rest in kinds)

    async def ensure_symbols(self, symbols: Iterable[str], calendar: str) -> None:
        """Assign ids to new symbols, with this calendar."""
        new = sorted({symbol for symbol in symbols if symbol not in self.names.symbols})
        if not new:
            return
        async with self._pool.acquire() as connection:
            await connection.execute(
                "INSERT INTO symbols (symbol, calendar) SELECT unnest($1::text[]), $2 ON CONFLICT DO NOTHING",
                new,
                calendar,
            )
            rows = await connection.fetch(
                "SELECT id, symbol, calendar FROM symbols WHERE symbol = ANY($1::text[])", new
            )
        self.names.add_symbols(Symbol(*row) for row in rows)

    async def ensure_provider(self, name: str, clock: Clock, delay_micros: int) -> int:
        """Return the id of a provider, assigned now if it is new, and store its clock if that has changed."""
        known = self.names.providers.get(name)
        if known is None or (known.clock, known.delay_micros) != (clock, delay_micros):
            async with self._pool.acquire() as connection:
                number = await connection.fetchval(
                    "INSERT INTO providers (name, clock, delay_us) VALUES ($1, $2, $3) ON CONFLICT (name)"
                    " DO UPDATE SET clock = excluded.clock, delay_us = excluded.delay_us RETURNING id",
                    name,
                    clock.value,
                    delay_micros,
                )
            known = ProviderName(number, name, clock, delay_micros)
            self.names.add_provider(known)
        return known.id

    async def provider_named(self, name: str) -> int:
        """Return the id of a provider that a record names; a new one has the wall clock."""
        if name not in self.names.providers:
            async with self._pool.acquire() as connection:
                await connection.execute(
                    "INSERT INTO providers (name, clock, delay_us) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
                    name,
                    Clock.WALL.value,
                )
                row = await connection.fetchrow("SELECT id, name, clock, delay_us FROM providers WHERE name = $1", name)
            self._add_provider(row)
        return self.names.providers[name].id

    def _add_provider(self, row: Any) -> None:
        number, name, clock, delay = row
        self.names.add_provider(ProviderName(number, name, Clock(clock), delay))

    async def ensure_kinds(self, kinds: Iterable[TickKind]) -> None:
        """Assign ids to new kinds of ticks."""
        # Not set(kinds) - keys(): that goes through all known kinds, and takes a quarter of a second for 400,000.
        new = list({kind for kind in kinds if kind not in self.names.kinds})
        if not new:
            return
        columns = list(zip(*((k.provider_id, k.exchange, k.conditions, k.flags, k.tape) for k in new), strict=True))
        wanted = "SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::smallint[], $5::text[])"
        async with self._pool.acquire() as connection:
            await connection.execute(
                f"INSERT INTO tick_kinds (provider_id, exchange, conditions, flags, tape) {wanted}"
                " ON CONFLICT DO NOTHING",
                *columns,
            )
            rows = await connection.fetch(
                "SELECT id, provider_id, exchange, conditions, flags, tape FROM tick_kinds "  # noqa: S608 - constants
                f"WHERE (provider_id, exchange, conditions, flags, tape) IN ({wanted})",
                *columns,
            )
        self.names.add_kinds((number, TickKind(*rest)) for number, *rest in rows)
