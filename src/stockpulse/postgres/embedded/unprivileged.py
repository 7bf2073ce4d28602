"""Running a program as another account: PostgreSQL refuses to run as root, but in a container the app often is root.

This file is used twice. The app imports it to choose the account and to build the command. Then it runs
as a script between the app and the program: it switches to the account, keeps at most one capability and
execs the program, with the same pid. A `preexec_fn` would do the same in the forked app itself, but
running Python there can deadlock as soon as the app has threads.

As a script it starts with `python -I -S`, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import stat
import sys
from pathlib import Path
from typing import NamedTuple

# From linux/capability.h and linux/prctl.h
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2

ACCOUNTS = ("postgres", "nobody")


class Account(NamedTuple):
    """The account that runs the server if the app is root."""

    uid: int
    gid: int

    def __str__(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


def account_for(folder: Path) -> Account | None:
    """Return the account for the server on `folder`: its owner once it exists; None for our own account."""
    if os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise PermissionError(f"PostgreSQL does not run as root, and there is no account {' or '.join(ACCOUNTS)}")


def command_as(account: Account, program: Path, folders: list[Path]) -> list[str]:
    """Return the prefix of a command line that runs the program as `account` with access to `folders`."""
    capability = _capability_needed(account, program, folders)
    return [sys.executable, "-I", "-S", __file__, str(account.uid), str(account.gid), str(capability)]


def _capability_needed(account: Account, program: Path, folders: list[Path]) -> int:
    """Return the smallest capability that opens the closed parents (which stay closed to others), 0 for none."""
    closed = [folder for path in (program, *folders) if (folder := _closed_parent(path, account))]
    runnable = _allows(program, account, stat.S_IXOTH)
    if runnable and not closed:
        return 0
    held = _held_capabilities()
    # Only CAP_DAC_OVERRIDE also runs a file that is not executable for us; Docker grants it by default, not the other.
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if runnable else (CAP_DAC_OVERRIDE,):
        if held >> capability & 1:
            return capability
    raise PermissionError(
        f"PostgreSQL does not run as root, and the account {account} cannot reach {(closed or [program])[0]}"
    )


def _closed_parent(path: Path, account: Account) -> Path | None:
    """Return the outermost folder above `path` that the account may not pass, by owner and mode."""
    parents = reversed(path.parents)
    return next((folder for folder in parents if not _allows(folder, account, stat.S_IXOTH)), None)


def _allows(path: Path, account: Account, bit: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        bit <<= 6
    elif status.st_gid == account.gid:
        bit <<= 3
    return bool(status.st_mode & bit)


def _held_capabilities() -> int:
    """Return our capabilities that a child may inherit, as a bit mask; 0 outside Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    masks = {name: int(mask, 16) for name, _, mask in (line.partition(":\t") for line in lines) if name[:3] == "Cap"}
    return masks.get("CapPrm", 0) & masks.get("CapBnd", 0)


def _become(account: Account, capability: int) -> None:
    """Switch to the account for good; an ambient capability survives that and the exec after it."""
    if capability:
        _call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
        # initdb asks access(2) about its own binaries, and that counts ambient capabilities only with this.
        # It needs CAP_SETPCAP; without it initdb reports the folders that it cannot reach.
        with contextlib.suppress(OSError):
            _call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if capability:
        mask = 1 << capability
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        effective_permitted_inheritable = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        _call("capset", header, effective_permitted_inheritable)
        _call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _call(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*(ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _main(uid: str, gid: str, capability: str, *command: str) -> None:
    try:
        _become(Account(int(uid), int(gid)), int(capability))
        os.execv(command[0], command)  # noqa: S606 - the command comes from command_as()'s caller
    except OSError as error:
        sys.exit(f"cannot run {command[0]} as user {uid}: {error}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
