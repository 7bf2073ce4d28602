"""The default of the memory for requests follows the limits of the machine and of its containers."""

import os

import pytest

from stockpulse.node import machine_memory
from stockpulse.node.machine_memory import MEGABYTE, default_request_memory_mb, memory_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limits(tmp_path, own, **files):
    """Cgroups with these limits, by the path of their folder, and the file that names those of this process."""
    (tmp_path / "own").write_text(own)
    for path, (name, text) in files.items():
        folder = tmp_path / "cgroups" / path.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return tmp_path / "cgroups", tmp_path / "own"


def test_without_cgroups_it_is_the_machine(tmp_path):
    assert memory_bytes(tmp_path / "none", tmp_path / "none") == MACHINE


def test_the_smallest_limit_of_version_2_counts(tmp_path):
    v2 = ("memory.max",)
    found = limits(
        tmp_path,
        "0::/box/app\n",
        box__app=(*v2, "max\n"),
        box=(*v2, f"{600 * MEGABYTE}\n"),
    )
    assert memory_bytes(*found) == 600 * MEGABYTE
    inner = limits(tmp_path, "0::/box/app\n", box__app=(*v2, f"{200 * MEGABYTE}\n"))
    assert memory_bytes(*inner) == 200 * MEGABYTE


def test_version_1(tmp_path):
    own = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n"
    # Inside a container only the root of the hierarchy is there.
    found = limits(tmp_path, own, memory=("memory.limit_in_bytes", f"{300 * MEGABYTE}\n"))
    assert memory_bytes(*found) == 300 * MEGABYTE
    unlimited = limits(tmp_path, own, memory=("memory.limit_in_bytes", "9223372036854771712\n"))
    assert memory_bytes(*unlimited) == MACHINE


@pytest.mark.parametrize(("memory_mb", "default_mb"), [(512, 384), (4096, 512), (65536, 1024)])
def test_the_default_is_an_eighth_within_bounds(monkeypatch, memory_mb, default_mb):
    monkeypatch.setattr(machine_memory, "memory_bytes", lambda: memory_mb * MEGABYTE)
    assert default_request_memory_mb() == default_mb
