"""The order of `/movers` where a change has no number."""

from datetime import UTC, datetime

from stockpulse.api.bars import _rank
from stockpulse.storage.movers import Move

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def test_a_change_without_a_number_ranks_last() -> None:
    """Bars from before there was a smallest price may hold one of 5e-324."""
    endless, up, down = Move("A", 5e-324, 1e12), Move("B", 10.0, 11.0), Move("C", 10.0, 8.0)
    found = sorted([(endless, NOW), (up, NOW), (down, NOW)], key=_rank)
    assert [move.symbol for move, _ in found] == ["C", "B", "A"]
