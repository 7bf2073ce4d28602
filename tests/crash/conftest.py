"""All apps of these tests find their indicators compiled, unless a test gives them a folder of their own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _compiled(compiled: Path) -> None:
    pass
