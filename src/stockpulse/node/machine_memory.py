"""The memory of the machine, or of the container: the smallest limit counts."""

import os
from pathlib import Path
from typing import Final

MEGABYTE: Final = 2**20
_SHARE: Final = 8
_LEAST_MB: Final = 384
_MOST_MB: Final = 1024
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")


def default_request_memory_mb() -> int:
    """Return an eighth of the memory in megabytes: at least 384, at most 1,024."""
    return min(_MOST_MB, max(_LEAST_MB, memory_bytes() // _SHARE // MEGABYTE))


def memory_bytes(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """Return the memory that this process may use, in bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(cgroups, own)])


def _limits(cgroups: Path, own: Path) -> list[int]:
    """Return the limits of the cgroups of this process and of those around them, of version 1 and 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (cgroups, "memory.max") if not controllers else (cgroups / "memory", "memory.limit_in_bytes")
        folder = root / path.lstrip("/")
        # In a container the path may be that outside of it: then only the root is there.
        files += [one / name for one in [folder, *folder.parents] if one.is_relative_to(root)]
    return [limit for file in files if (limit := _number_in(file)) is not None]


def _number_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max": no limit
