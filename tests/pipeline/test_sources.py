"""Each provider in use is created once, with the symbols and calendars of its feed."""

import pytest

from stockpulse.errors import InvalidInput, NotFound
from stockpulse.pipeline.sources import Sources
from stockpulse.providers.base import Option, ProviderEntry
from stockpulse.providers.feed_list import FollowedSymbols
from stockpulse.providers.registry import ProviderRegistry
from stockpulse.testing import ScriptedProvider


class Closing(ScriptedProvider):
    def __init__(self, name, symbols):
        super().__init__(name=name, calendar="XNYS")
        self.symbols, self.closed = symbols, 0

    async def close(self):
        self.closed += 1


def entry(name, *aliases, options=()):
    return ProviderEntry(name, lambda config: Closing(name, config.symbols), aliases, options=options)


KEY = Option("key", ("STOCKPULSE_PAID_KEY",), "Key.")
REGISTRY = ProviderRegistry(
    ("tests", one) for one in (entry("one"), entry("two", "zwei"), entry("three"), entry("paid", options=(KEY,)))
)
FOLLOWED = (FollowedSymbols("one", ("A", "B"), {"B": "24/7"}), FollowedSymbols("two", ("B", "C")))


def sources(*fallbacks):
    return Sources(followed=FOLLOWED, fallbacks=fallbacks, providers=REGISTRY)


def names(found):
    return [one.name for one in found]


def test_feeds_have_their_symbols_and_calendars():
    one, two = sources().feeds
    assert (one.symbols, two.symbols) == (("A", "B"), ("B", "C"))
    assert (one.provider.symbols, two.provider.symbols) == (("A", "B"), ("B", "C"))
    assert [one.feed.calendar_of(symbol) for symbol in ("A", "B", "BTC/USD")] == ["XNYS", "24/7", "24/7"]
    assert two.feed.calendar_of("B") == "XNYS"


def test_each_is_created_once_whatever_its_name():
    used = sources()
    assert used.named("zwei") is used.named("two") is used.feeds[1]
    assert used.named("three").symbols == ()


def test_the_provider_of_the_feed_is_asked_first():
    used = sources("three", "two")
    assert names(used.order_for("A")) == ["one", "three", "two"]
    assert names(used.order_for("B")) == ["one", "two", "three"]
    assert names(used.order_for("Z")) == ["three", "two"]


def test_an_unknown_name_and_a_missing_key():
    with pytest.raises(NotFound, match="no provider is called 'nine'"):
        sources().named("nine")
    with pytest.raises(InvalidInput, match="STOCKPULSE_PAID_KEY: is not set, and paid needs it"):
        sources().named("paid")


async def test_all_that_were_created_are_closed():
    used = sources()
    one, two = used.feeds
    await used.close()
    assert (one.provider.closed, two.provider.closed) == (1, 1)
