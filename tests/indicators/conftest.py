"""compiler   compiled loops, in the folder that all tests and processes of this run share."""

from pathlib import Path

import pytest

from stockpulse.indicators.compiler import Compiler


@pytest.fixture(scope="session")
def loops_folder(cache_dir: Path) -> Path:
    folder = cache_dir / "loops"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiler(loops_folder: Path) -> Compiler:
    return Compiler(loops_folder)
