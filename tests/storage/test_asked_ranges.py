"""Ranges that providers were asked for: they never overlap, and stay few."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from stockpulse.market.intervals import D1, M5
from stockpulse.storage.asked_ranges import (
    Asked,
    AskedRange,
    AskedRanges,
    Outcome,
    asked_of_symbol,
    with_range,
    without,
)
from store_stack import stack

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
COMPLETE, NOTHING, REFUSED = Outcome


def asked(start, end, outcome=COMPLETE, at=NOW, reason=None):
    return AskedRange(start, end, outcome, at, reason)


def test_touching_ranges_with_one_outcome_are_one():
    later = NOW + timedelta(hours=1)
    assert with_range((asked(0, 10),), asked(10, 20, at=later)) == (asked(0, 20, at=later),)
    assert with_range((asked(0, 10), asked(20, 30)), asked(10, 20)) == (asked(0, 30),)
    assert with_range((asked(0, 10),), asked(10, 20, NOTHING)) == (asked(0, 10), asked(10, 20, NOTHING))
    refused = asked(0, 10, REFUSED, reason="the plan has no history")
    assert with_range((refused,), asked(10, 20, REFUSED, reason="unknown")) == (
        refused,
        asked(10, 20, REFUSED, reason="unknown"),
    )


def test_a_new_range_replaces_what_it_overlaps():
    assert with_range((asked(0, 30, NOTHING),), asked(10, 20)) == (
        asked(0, 10, NOTHING),
        asked(10, 20),
        asked(20, 30, NOTHING),
    )


def test_a_part_is_forgotten():
    assert without((asked(0, 30),), 10, 20) == (asked(0, 10), asked(20, 30))
    assert without((asked(0, 30),), 0, 30) == ()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10), st.sampled_from(Outcome)), max_size=15))
def test_every_instant_has_the_outcome_of_its_newest_range(ranges):
    known, instants = (), {}
    for start, length, outcome in ranges:
        known = with_range(known, asked(start, start + length, outcome))
        instants |= dict.fromkeys(range(start, start + length), outcome)
    assert {at: one.outcome for one in known for at in range(one.start, one.end)} == instants
    for one, following in itertools.pairwise(known):
        assert one.end <= following.start
        assert not following.continues(one)


async def test_are_stored(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        ranges = AskedRanges(parts.pool)
        await ranges.load()
        await ranges.add("vendor", M5, [Asked("A", asked(0, 10)), Asked("A", asked(10, 20)), Asked("B", asked(0, 5))])
        await ranges.add("vendor", M5, [Asked("A", asked(20, 30)), Asked("B", asked(3, 8, REFUSED, reason="no"))])
        await ranges.add("other", D1, [Asked("A", asked(0, 10, NOTHING))])
        again = AskedRanges(parts.pool)
        await again.load()
        for one in (ranges, again):
            assert one.of("vendor", M5, "A") == (asked(0, 30),)
            assert one.of("vendor", M5, "B") == (asked(0, 3), asked(3, 8, REFUSED, reason="no"))
            assert one.of("vendor", D1, "A") == ()
            assert one.of("other", D1, "A") == (asked(0, 10, NOTHING),)
        assert await asked_of_symbol(parts.pool, D1, "A") == {"other": (asked(0, 10, NOTHING),)}
        assert await parts.pool.fetchval("SELECT count(*) FROM asked_ranges") == 4
        await ranges.drop("vendor", M5, ["A", "B"], 0, 5)
        await again.load()
        assert again.of("vendor", M5, "A") == (asked(5, 30),)
        assert again.of("vendor", M5, "B") == (asked(5, 8, REFUSED, reason="no"),)
