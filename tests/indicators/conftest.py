"""compiler   compiled loops, in one folder for all tests and processes of this run: each is compiled once."""

from pathlib import Path

import pytest

from stockpulse.compiler import Compiler


@pytest.fixture(scope="session")
def loops_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "loops"  # the workers' folders stand in one of the run
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiler(loops_folder: Path) -> Compiler:
    return Compiler(loops_folder)
