"""The progress of one run of a backfill."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

_LISTED_REFUSALS: Final = 100


class Status(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    WAITING = "waiting"
    """A provider does not answer, or takes no more requests for now."""
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass
class Run:
    """A run, and its progress."""

    id: int
    started_at: datetime
    provider: str | None
    """None: the order of the settings."""
    symbols: tuple[str, ...]
    intervals: tuple[str, ...]
    start: datetime | None = None
    end: datetime | None = None
    status: Status = Status.RUNNING
    expected: int = 0
    """Bars that the calendar expects in the ranges to ask for."""
    done: int = 0
    """Those of them whose ranges are answered or refused."""
    bars: int = 0
    """Bars that came and were accepted."""
    requests: int = 0
    refusals: list[str] = field(default_factory=list)
    refused: int = 0
    """Number of refused ranges; the first ones are listed in `refusals`."""
    last_fault: str | None = None
    waits_until: datetime | None = None
    completed_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        """True if the run does nothing more."""
        return self.status in {Status.COMPLETED, Status.FAILED}

    def refuse(self, text: str) -> None:
        """Count a refusal."""
        self.refused += 1
        if len(self.refusals) < _LISTED_REFUSALS:
            self.refusals.append(text)

    def details(self) -> dict[str, Any]:
        """Return the fields for the audit log that have no column of their own."""
        return {
            "provider": self.provider,
            "symbols": len(self.symbols),
            "intervals": list(self.intervals),
            "start": None if self.start is None else self.start.isoformat(),
            "end": None if self.end is None else self.end.isoformat(),
            "requests": self.requests,
            "expected_bars": self.expected,
            "refused": self.refused,
            "refusals": self.refusals,
            "last_fault": self.last_fault,
        }
