"""The folder of machine code: one that no other user can write to."""

import os
import stat
from pathlib import Path


def why_not_private(folder: Path) -> str | None:
    """Return None if only this user can write to the folder, else the reason. Makes the folder if it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as fault:
        return str(fault)
    if found.st_uid != os.getuid():
        return f"{folder} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to {folder}"
    return None if os.access(folder, os.W_OK) else f"{folder} cannot be written to"
