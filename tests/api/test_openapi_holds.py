"""The OpenAPI document says what is taken and answered: Schemathesis asks the real app, with all of its checks."""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from app_process import AppProcess

CONFIG = Path(__file__).with_name("schemathesis.toml")
TICK = {"symbol": "AAPL", "ts": "2025-11-28T15:00:00Z", "price": 1, "size": 1}
DEPTH = ("--phases=examples,fuzzing", "--max-examples=3")


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_document_holds(tmp_path: Path, compiled: Path) -> None:
    with AppProcess(tmp_path / "app", cache_dir=str(compiled)) as app:
        httpx2.post(f"{app.url}/ticks", json=[TICK]).raise_for_status()
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", *DEPTH]
        command += ["--seed=1", "--generation-deterministic", "--no-shrink", "--continue-on-failure"]
        command += ["--no-color", "--warnings=off", "--header=Content-Type: application/json"]
        done = subprocess.run(
            [*command, f"{app.url}/openapi.json"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Tested: 36" in done.stdout
        assert httpx2.get(f"{app.url}/symbols").status_code == 200
        assert "request_failed" not in app.log.read_text()
