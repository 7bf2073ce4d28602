"""The app starts and keeps running in any state of its cache of compiled indicators."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from app_process import AppProcess
from small_disk import fill, free, make_room, small_disk
from stockpulse.indicators.compiler import file_name
from stockpulse.node import parts
from stockpulse.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def cache(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the cache with everything in it."""
    shutil.copytree(compiled / "loops", tmp_path / "cache" / "loops")
    return tmp_path / "cache"


def compiled_health(app: AppProcess) -> Any:
    return app.wait_for("/health", lambda health: health["analytics"]["compiled"] and health)


def said(app: AppProcess, words: str) -> int:
    return sum(words in line for line in app.log.read_text().splitlines())


@pytest.mark.thorough
def test_damaged_files_do_not_stop_a_start(cache, tmp_path):
    instances = parts.build_engine_spec(Settings(_env_file=None)).instances
    files = [cache / "loops" / file_name(one.loop) for one in instances]
    assert len(set(files)) > 3
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:1000])
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:5000] + b"\xff\xff\xff\xff" + whole[5004:])
    with AppProcess(tmp_path / "data", cache_dir=str(cache)) as app:
        health = compiled_health(app)
        assert (health["status"], health["cache"]) == ("ok", "ok")
    assert said(app, "is damaged; compiling it again") > 0


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_full_disk_of_the_cache_does_not_end_the_app(tmp_path):
    with small_disk(tmp_path / "disk", "400k") as disk:
        fill(disk, leave=100_000)
        with AppProcess(tmp_path / "data", cache_dir=str(disk)) as app:
            health = app.wait_for("/health", lambda one: one["analytics"]["compiled"] and one, seconds=400)
            assert health["status"] == "ok"
            assert "No space left on device" in health["cache"]
            assert app.stop() == 0
        assert said(app, "compiled indicators cannot be kept") == 1
        assert free(disk) < 100_000
        make_room(disk)
