"""A real uvicorn that listens on all addresses answers this machine only.

Its other addresses are those of a network namespace that lives as long as the test.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import app_process

OUTSIDE = "192.0.2.1"  # reserved for documentation, RFC 5737
NAMESPACE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
SET_UP = f"ip link set lo up && ip address add {OUTSIDE}/32 dev lo"
SCRIPT = Path(__file__).with_name("outside.py")


@pytest.mark.thorough
def test_only_this_machine_is_answered(tmp_path: Path, compiled: Path) -> None:
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare and ip")
    if subprocess.run([*NAMESPACE, "sh", "-c", SET_UP], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a network namespace")
    tests = Path(app_process.__file__).parent
    script = [sys.executable, str(SCRIPT), str(tmp_path), OUTSIDE, str(compiled)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", f'{SET_UP} && exec "$@"', "sh", *script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers.pop("said")
    message = answers.pop("message")
    assert OUTSIDE in message
    assert "STOCKPULSE_TRUSTED_NETWORKS" in message
    assert answers == {
        "loopback": [200, 200],
        "outside": [403, 403],
        "outside as localhost": [403, 403],
        "outside that pretends": [403, 403],
        "a proxy for outside": [403, 403],
        "trusted": [200, 200],
        "trusted under another name": [421, 421],
        "a trusted proxy for others": [403, 403],
    }
