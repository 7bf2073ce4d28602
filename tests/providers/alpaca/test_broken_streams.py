"""The whole app follows a stream that breaks in every way: no trade is lost, none is doubled, bars are right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[2] / "bench" / "broken_streams.py"
KINDS = 17

pytestmark = pytest.mark.slow


def run(*options):
    done = subprocess.run([sys.executable, str(DRIVER), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def assert_nothing_is_wrong(found):
    assert found["gaps"].keys() == {"filled"}
    wrong = ("trades_missing", "trades_doubled", "trades_unknown", "bars_wrong")
    assert ({name: found[name] for name in wrong}, found["examples"]) == (dict.fromkeys(wrong, 0), [])
    assert min(found["trades_filled_in"], found["bars"], found["cancelled"], found["corrected"]) > 0


@pytest.mark.thorough
@pytest.mark.timeout(400)
@pytest.mark.parametrize("encoding", ["json", pytest.param("msgpack", marks=pytest.mark.longest)])
def test_each_fault_once(compiled, encoding):
    found = run("--faults", str(KINDS), "--seed", "3", "--encoding", encoding)
    assert_nothing_is_wrong(found)
    assert sorted(found["faults"].values()) == [1] * KINDS


@pytest.mark.longest
@pytest.mark.timeout(1800)
def test_two_hundred_faults(compiled):
    found = run("--faults", "200", "--seed", "4")
    assert_nothing_is_wrong(found)
    assert sum(found["faults"].values()) == 200
