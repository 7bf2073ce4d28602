"""The server that the tests with Alpaca's own clients use."""

from collections.abc import Iterator
from pathlib import Path

import client_server
import pytest

from app_process import AppProcess


@pytest.fixture(scope="session")
def filled(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """Return a running app with 20,000 minutes of three symbols."""
    with AppProcess(tmp_path_factory.mktemp("clients") / "data", cache_dir=str(compiled)) as app:
        client_server.fill(app)
        yield app
