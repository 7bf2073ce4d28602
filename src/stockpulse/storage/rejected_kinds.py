"""The kinds of rejected records, and the number of records of each that is kept in a minute."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import polars as pl

_VARYING: Final = r"""'[^']*'|"[^"]*"|\d+"""
"""The parts of a reason that differ between records of one kind: quoted values and numbers."""
KEPT_PER_MINUTE: Final = 1_000
_MOST_KINDS: Final = 1_000
_FULL_KINDS: Final = 20
"""All kinds together keep as many records in a minute as this number of full kinds."""
_OTHERS: Final = ("", "")
"""The kind of all records in a minute that has more kinds than that."""

Kind = tuple[str, str]
"""The source, and the reason without its varying parts."""


@dataclass(frozen=True)
class Share:
    """The records of one kind in a batch: those to keep, and the number of those that are only counted."""

    kind: Kind
    kept: pl.DataFrame
    example: pl.DataFrame
    """The first of the records that are only counted; empty if there are none."""
    counted: int


@dataclass(frozen=True)
class CountingLetter:
    """The stored record that counts the further ones of its kind and minute."""

    id: int
    received_at: datetime


class RejectedKinds:
    """Limits the records of each kind that are kept in a minute."""

    def __init__(self, per_minute: int = KEPT_PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._minute = datetime.min.replace(tzinfo=UTC)
        self._kept: Counter[Kind] = Counter()
        self.counting: dict[Kind, CountingLetter] = {}
        """The counting letter of each kind in this minute."""

    @contextmanager
    def shares(self, source: str, rejected: pl.DataFrame, now: datetime) -> Iterator[list[Share]]:
        """Yield the shares of a batch (columns reason, raw, others). If storing them fails, they do not count."""
        self._begin_minute(now)
        shares = [self._share(source, reason, part) for reason, part in _by_reason(rejected)]
        try:
            yield shares
        except BaseException:
            for share in shares:
                self._kept[share.kind] -= len(share.kept)
            raise

    def _begin_minute(self, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._minute = minute
            self._kept.clear()
            self.counting.clear()

    def _share(self, source: str, reason: str, part: pl.DataFrame) -> Share:
        kind = (source, reason)
        if kind not in self._kept and len(self._kept) >= _MOST_KINDS:
            kind = _OTHERS
        room_of_all = _FULL_KINDS * self._per_minute - self._kept.total()
        room = max(min(self._per_minute - self._kept[kind], room_of_all), 0)
        share = Share(kind, part[:room], part[room : room + 1], max(len(part) - room, 0))
        self._kept[kind] += len(share.kept)
        return share


def _by_reason(rejected: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the records of each reason, without its varying parts."""
    reasons = rejected["reason"].str.replace_all(_VARYING, "…")
    for (reason,), part in rejected.group_by(reasons.alias("kind"), maintain_order=True):
        yield str(reason), part
