"""The limits on connections, and the file descriptors that they must leave to the rest of the process."""

import os
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import structlog

_MOST_DESCRIPTORS: Final = 65_536
_SPARE_DESCRIPTORS: Final = 64
_FEWEST_CONNECTIONS: Final = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits on connections, in bytes and seconds."""

    total: int
    per_peer: int
    header_bytes: int
    header_seconds: float
    body_seconds: float
    idle_seconds: float

    def leaving(self, descriptors: int) -> Self:
        """Return limits that leave `descriptors` of the process free, and a quarter of all connections to other peers.

        A connection needs one descriptor.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        available = self.total if soft == resource.RLIM_INFINITY else soft - descriptors
        total = max(min(self.total, available), _FEWEST_CONNECTIONS)
        if total < self.total:
            log.warning(
                "few_file_descriptors",
                connections=total,
                wanted=self.total,
                more=f"the process may open {soft:,} files: raise `ulimit -n`, or lower STOCKPULSE_MAX_CONNECTIONS",
            )
        return replace(self, total=total, per_peer=min(self.per_peer, total * 3 // 4))


def raise_descriptor_limit() -> None:
    """Raise the soft limit on open files to the hard one, as Go, Java and systemd's manual do.

    The low soft limit protects programs that use select(), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as fault:  # macOS has a further limit, which it does not tell
        log.warning("descriptor_limit_stays", limit=soft, reason=str(fault))


def needed_descriptors(further: int) -> int:
    """Return the descriptors that the process has open now, and needs besides: `further` ones and some to spare."""
    folder = "/dev/fd" if Path("/dev/fd").is_dir() else "/proc/self/fd"
    return len(os.listdir(folder)) + further + _SPARE_DESCRIPTORS  # noqa: PTH208 - only their number
