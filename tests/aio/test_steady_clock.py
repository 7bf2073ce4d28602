"""A clock that continues when the clock of the machine is set, and returns to it."""

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from stockpulse.aio.steady_clock import SteadyClock

START = datetime(2026, 3, 2, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Machine:
    """The clock of a machine, which a test can set, and its uptime."""

    def __init__(self) -> None:
        self.passed = timedelta()
        self.set_by = timedelta()
        self.clock = SteadyClock(self.wall, lambda: self.passed // timedelta(microseconds=1))

    def wall(self) -> datetime:
        return START + self.passed + self.set_by

    def run(self, duration: timedelta, step: timedelta = timedelta(seconds=1)) -> list[datetime]:
        """Return the times that the clock shows, one after each step."""
        times = []
        for _ in range(duration // step):
            self.passed += step
            times.append(self.clock())
        return times


def test_it_shows_the_time_of_the_machine():
    machine = Machine()
    assert machine.run(MINUTE)[-1] == machine.wall() == START + MINUTE
    assert machine.clock.behind_seconds() == 0
    assert machine.clock.last_step is None


def test_it_follows_small_corrections_and_says_nothing():
    machine = Machine()
    for _ in range(100):
        machine.set_by += timedelta(milliseconds=20)
        machine.run(timedelta(seconds=1))
        assert machine.clock() == machine.wall()
    assert machine.clock.last_step is None


def test_five_minutes_forward_and_back_skip_no_second():
    machine = Machine()
    times = machine.run(MINUTE)
    machine.set_by = 5 * MINUTE
    times += machine.run(2 * MINUTE)
    assert machine.clock.last_step is not None
    assert (machine.clock.last_step.at, machine.clock.last_step.seconds) == (START + MINUTE + MINUTE / 60, 300)
    assert machine.clock.behind_seconds() == 180
    machine.set_by = timedelta()
    times += machine.run(10 * MINUTE)
    assert machine.clock.last_step.seconds == -300
    assert all(timedelta() < after - before <= timedelta(seconds=2) for before, after in pairwise(times))
    assert machine.clock() == machine.wall()


def test_an_hour_back_slows_it_down_until_the_machine_has_caught_up():
    machine = Machine()
    machine.run(MINUTE)
    machine.set_by = timedelta(hours=-1)
    times = machine.run(timedelta(hours=2))
    assert all(after - before == timedelta(seconds=0.5) for before, after in pairwise(times))
    assert machine.clock() == machine.wall()
    assert machine.run(MINUTE)[-1] == machine.wall()


def test_a_clock_that_was_wrong_by_days_is_right_at_once():
    machine = Machine()
    machine.run(MINUTE)
    machine.set_by = timedelta(days=400)
    assert machine.run(MINUTE)[-1] == machine.wall()
    assert machine.clock.last_step is not None
    assert machine.clock.last_step.seconds == 400 * 86_400


def test_the_machine_that_the_tests_run_on():
    clock = SteadyClock()
    before = datetime.now(UTC)
    time.sleep(0.01)
    assert before < clock() <= datetime.now(UTC)
