"""The supervisor restarts tasks after transient faults, stops the process after any other, and stops all its tasks."""

import asyncio
import contextlib
import signal
import subprocess
import sys

import pytest
import structlog

from stockpulse.aio import supervisor as module
from stockpulse.aio.supervisor import State, Supervisor


class PassingFaultError(Exception):
    """A transient fault."""


class Task:
    """Raises each of `faults` in turn, one in each run; then ends, or waits without end."""

    def __init__(self, *faults, ends=False):
        self.faults = list(faults)
        self.ends = ends
        self.runs = 0
        self.waiting = asyncio.Event()

    async def __call__(self):
        self.runs += 1
        if self.faults:
            raise self.faults.pop(0)
        if not self.ends:
            self.waiting.set()
            await asyncio.Event().wait()


@pytest.fixture
def fallen():
    """A list that grows each time the supervisor stops the process."""
    return []


@pytest.fixture
async def supervisor(fallen):
    async with Supervisor((PassingFaultError,), lambda: fallen.append("down")) as supervisor:
        yield supervisor


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "_LONGEST_DELAY", 0.004)


async def test_a_task_runs_until_it_is_done(supervisor, fallen):
    supervisor.start("calendar", Task(ends=True))
    assert await supervisor.wait("calendar", 1)
    assert supervisor.health["calendar"].state is State.DONE
    assert not supervisor.failed
    assert fallen == []


async def test_a_fault_that_passes_starts_it_again(supervisor, fallen, quick):
    task = Task(PassingFaultError("away"), PassingFaultError("still away"))
    supervisor.start("flush", task)
    async with asyncio.timeout(5):
        await task.waiting.wait()
    health = supervisor.health["flush"]
    assert (task.runs, health.state, health.restarts) == (3, State.RUNNING, 2)
    assert "still away" in health.last_error
    assert not supervisor.failed
    assert fallen == []


async def test_while_it_waits_it_says_so(supervisor):
    supervisor.start("flush", Task(PassingFaultError("away")))
    await asyncio.sleep(0.01)
    health = supervisor.health["flush"]
    assert (health.state, health.restarts) == (State.RESTARTING, 0)
    assert "away" in health.last_error


async def test_each_wait_is_longer_up_to_a_limit(supervisor, quick):
    task = Task(*[PassingFaultError() for _ in range(5)])
    with structlog.testing.capture_logs() as logs:
        supervisor.start("flush", task)
        async with asyncio.timeout(5):
            await task.waiting.wait()
    assert [entry["in_seconds"] for entry in logs] == [0.001, 0.002, 0.004, 0.004, 0.004]
    assert {entry["task"] for entry in logs} == {"flush"}


async def test_after_a_calm_time_the_wait_is_short_again(supervisor, quick, monkeypatch):
    monkeypatch.setattr(module, "_CALM_SECONDS", 0.0)
    task = Task(*[PassingFaultError() for _ in range(4)])
    with structlog.testing.capture_logs() as logs:
        supervisor.start("flush", task)
        async with asyncio.timeout(5):
            await task.waiting.wait()
    assert [entry["in_seconds"] for entry in logs] == [0.001] * 4


@pytest.mark.parametrize("fault", [ValueError("a bug"), MemoryError(), SystemExit(3)], ids=repr)
async def test_any_other_fault_brings_the_process_down(supervisor, fallen, fault):
    with structlog.testing.capture_logs() as logs:
        supervisor.start("step", Task(fault))
        assert await supervisor.wait("step", 1)
    assert fallen == ["down"]
    assert supervisor.failed
    assert supervisor.health["step"].state is State.FAILED
    (entry,) = logs
    assert (entry["log_level"], entry["task"], entry["exc_info"]) == ("critical", "step", fault)


async def test_the_others_go_on_until_they_are_stopped(supervisor):
    other = Task()
    supervisor.start("append", other)
    supervisor.start("step", Task(ValueError()))
    await supervisor.wait("step", 1)
    assert supervisor.health["append"].state is State.RUNNING


async def test_stops_in_the_order_that_is_given(supervisor):
    stopped = []

    async def run(name):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            stopped.append(name)

    for name in ("append", "step", "flush"):
        supervisor.start(name, lambda name=name: run(name))
    await asyncio.sleep(0)
    await supervisor.stop(["flush", "append", "step", "unknown"])
    assert stopped == ["flush", "append", "step"]
    assert {health.state for health in supervisor.health.values()} == {State.STOPPED}


async def test_stops_one_that_waits_for_its_restart(supervisor):
    supervisor.start("flush", Task(PassingFaultError()))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(0.1):
        await supervisor.stop(["flush"])
    assert supervisor.health["flush"].state is State.STOPPED


async def test_does_not_wait_for_ever_for_one_that_does_not_stop(supervisor):
    released = asyncio.Event()

    async def stubborn():
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    supervisor.start("feed", stubborn)
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await supervisor.stop(["feed"], seconds=0.01)
    assert [(entry["event"], entry["task"]) for entry in logs] == [("task does not stop", "feed")]
    released.set()
    await asyncio.sleep(0.01)


async def test_tasks_are_found_by_their_stage(supervisor):
    supervisor.start("flush:1", Task(), stage="flush", lag=lambda: 7)
    supervisor.start("step:1", Task(), stage="step")
    supervisor.start("flush:2", Task(), stage="flush")
    supervisor.start("audit", Task())
    assert list(supervisor.of_stage("flush")) == ["flush:1", "flush:2"]
    assert list(supervisor.of_stage("step", "audit")) == ["step:1", "audit"]
    assert supervisor.of_stage("feed") == {}
    assert supervisor.health["flush:1"].lag() == 7
    assert supervisor.health["audit"].lag is None


@pytest.mark.parametrize("fault", [None, ValueError("refused"), asyncio.CancelledError()], ids=repr)
async def test_leaving_the_context_stops_all_tasks_the_newest_first(fault):
    stopped, before = [], asyncio.all_tasks()

    async def run(name):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(name)

    with contextlib.suppress(ValueError, asyncio.CancelledError):
        async with Supervisor(()) as supervisor:
            for name in ("postgres", "append", "step"):
                supervisor.start(name, lambda name=name: run(name))
            await asyncio.sleep(0)
            if fault is not None:
                raise fault
    assert stopped == ["step", "append", "postgres"]
    assert asyncio.all_tasks() == before


async def test_a_task_can_run_as_long_as_a_block(supervisor):
    task = Task()
    async with supervisor.running("postgres", task):
        await task.waiting.wait()
        assert supervisor.health["postgres"].state is State.RUNNING
    assert supervisor.health["postgres"].state is State.STOPPED


async def test_waiting_ends_in_time(supervisor):
    supervisor.start("flush", Task())
    assert not await supervisor.wait("flush", 0.01)
    assert supervisor.health["flush"].state is State.RUNNING
    assert await supervisor.wait("unknown", 0.01)


def test_bringing_down_is_a_sigterm():
    """In a separate process: without uvicorn's handler the signal ends it."""
    program = """
import asyncio
from stockpulse.aio.supervisor import Supervisor

async def fail():
    raise ValueError("a bug")

async def main():
    Supervisor(()).start("step", fail)
    await asyncio.sleep(30)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGTERM
    assert "task failed, stopping the process" in ended.stdout
