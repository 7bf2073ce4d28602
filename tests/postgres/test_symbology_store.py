"""Ids of new names; a new one costs the same however many are known."""

from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import Names, TickKind
from stockpulse.postgres.connect import create_pool
from stockpulse.postgres.symbology_store import NameStore


class Counted(TickKind):
    """A kind that counts how often it is looked at."""

    hashed = 0

    def __hash__(self) -> int:
        Counted.hashed += 1
        return super().__hash__()


async def test_a_new_kind_does_not_look_at_the_known_ones(postgres_dsn: str) -> None:
    async with await create_pool(postgres_dsn, 2) as pool:
        store = NameStore(pool, Names())
        provider = await store.ensure_provider("feed", Clock.WALL, 0)
        store.names.add_kinds((1000 + at, Counted(provider, f"E{at}", "", 7)) for at in range(500))
        Counted.hashed = 0
        await store.ensure_kinds([TickKind(provider, "NEW", "", 7), TickKind(provider, "NEW", "", 7)])
        assert Counted.hashed == 0
        other = NameStore(pool, Names())
        await other.load()
        assert (
            other.names.kinds[TickKind(provider, "NEW", "", 7)] == store.names.kinds[TickKind(provider, "NEW", "", 7)]
        )
