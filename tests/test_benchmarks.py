"""Every benchmark runs, at a tiny size, and prints one JSON object with figures in it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "bench"
TINY = {
    "backfill": ["--symbols", "3", "--years", "1", "--days-5m", "5", "--kills", "1", "--alone-seconds", "1"],
    "backfill_beside_live": ["--symbols", "2", "--years", "1", "--live", "2", "--alone-seconds", "1"],
    "bar_reads": ["--seconds", "0.2", "--days", "3"],
    "broken_streams": ["--faults", "3"],
    "greedy_readers": ["--minutes", "0.05", "--readers", "4", "--rate", "1000", "--bars", "2000"],
    "indicators": ["--symbols", "20", "--rounds", "1", "--batch-symbols", "16", "--batch-bars", "260"],
    "ingest": ["--ticks", "40000", "--symbols", "10", "--naive-ticks", "20"],
    "post": ["--rates", "500", "1000", "--seconds", "0.5"],
    "request_memory": ["--bars", "2000", "--seconds", "2"],
    "restart": ["--symbols", "20", "--history", "2", "--rounds", "1", "--batches", "2"],
    "soak": ["--rate", "2000", "--minutes", "0", "--sample-seconds", "0.5"],
    "stream": ["--seconds", "0.5", "--rates", "500", "--clients", "3", "--stalled-clients", "0"],
    "tick_reads": ["--stored", "40000", "--rate", "500", "--symbols", "10", "--samples", "20"],
}
TINY_ON_KAFKA = {
    "kafka": ["--ticks", "40000", "--symbols", "10", "--latency-seconds", "0.5"],
    "shared": ["--ticks", "40000", "--symbols", "10"],
}
NO_BENCHMARK = {"bench"}  # the parts that they share

pytestmark = [pytest.mark.slow, pytest.mark.longest, pytest.mark.timeout(180)]


def result_of(name: str, *options: str) -> dict[str, object]:
    """Run a benchmark and return the object that it prints."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert result["bench"] == name
    assert result["machine"]["cores"] >= 1
    return result


def numbers_in(value: object) -> list[float]:
    """Return all numbers of an object, at any depth."""
    match value:
        case bool() | str() | None:
            return []
        case dict():
            return [number for one in value.values() for number in numbers_in(one)]
        case list():
            return [number for one in value for number in numbers_in(one)]
    return [value]


def assert_has_figures(result: dict[str, object]) -> None:
    numbers = numbers_in({name: value for name, value in result.items() if name != "machine"})
    assert len(numbers) >= 3
    assert all(math.isfinite(number) and number >= 0 for number in numbers), result


@pytest.mark.parametrize("name", TINY)
def test_runs_and_prints_one_object(name: str, compiled: Path) -> None:
    options = [*TINY[name], *(["--cache", str(compiled)] if name == "indicators" else [])]
    assert_has_figures(result_of(name, *options))


@pytest.mark.parametrize("name", TINY_ON_KAFKA)
def test_with_kafka_runs_and_prints_one_object(name: str, compiled: Path, kafka_jars: Path) -> None:
    assert_has_figures(result_of(name, *TINY_ON_KAFKA[name]))


def test_the_first_start_of_the_app_is_measured(compiled: Path) -> None:
    result = result_of("indicators", *TINY["indicators"], "--cache", str(compiled), "--starts")
    assert_has_figures(result)
    assert {"first_start", "second_start"} <= result.keys()


def test_no_benchmark_is_left_out() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} - NO_BENCHMARK == TINY.keys() | TINY_ON_KAFKA.keys()
