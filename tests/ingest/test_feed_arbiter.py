"""The provider whose ticks build the bars of a symbol."""

import pytest

from stockpulse.ingest.feed_arbiter import SILENCE_MICROS, FeedArbiter

SECOND = 1_000_000
T = 1_700_000_000 * SECOND


@pytest.fixture
def arbiter():
    return FeedArbiter(standby=["simulated"])


def leads(arbiter, provider, now, symbol="AAPL"):
    return not arbiter.followers([symbol], provider, now)


def test_the_first_leads_and_the_second_follows(arbiter):
    assert leads(arbiter, "alpaca", T)
    assert not leads(arbiter, "finnhub", T)
    assert leads(arbiter, "alpaca", T + SECOND)


def test_each_symbol_has_a_lead_of_its_own(arbiter):
    arbiter.followers(["AAPL"], "alpaca", T)
    arbiter.followers(["MSFT"], "finnhub", T)
    assert arbiter.followers(["AAPL", "MSFT", "IBM"], "finnhub", T) == {"AAPL"}
    assert arbiter.followers(["AAPL", "MSFT", "IBM"], "alpaca", T) == {"MSFT", "IBM"}


def test_another_takes_over_after_a_silence_and_not_before(arbiter):
    leads(arbiter, "alpaca", T)
    assert not leads(arbiter, "finnhub", T + SILENCE_MICROS)
    assert leads(arbiter, "finnhub", T + SILENCE_MICROS + 1)
    assert not leads(arbiter, "alpaca", T + SILENCE_MICROS + 2)


def test_only_the_lead_itself_breaks_its_silence(arbiter):
    leads(arbiter, "alpaca", T)
    for seconds in range(0, 61, 10):
        assert not leads(arbiter, "finnhub", T + seconds * SECOND)
    assert leads(arbiter, "finnhub", T + 61 * SECOND)


def test_ticks_keep_the_lead(arbiter):
    for seconds in range(0, 300, 50):
        assert leads(arbiter, "alpaca", T + seconds * SECOND)
        assert not leads(arbiter, "finnhub", T + seconds * SECOND)


def test_real_data_takes_over_from_simulated_at_once(arbiter):
    assert leads(arbiter, "simulated", T)
    assert leads(arbiter, "alpaca", T + 1)
    assert not leads(arbiter, "simulated", T + 2)


def test_simulated_data_takes_over_again_after_a_silence(arbiter):
    leads(arbiter, "alpaca", T)
    assert not leads(arbiter, "simulated", T + SILENCE_MICROS)
    assert leads(arbiter, "simulated", T + SILENCE_MICROS + 1)
    assert leads(arbiter, "alpaca", T + SILENCE_MICROS + 2)


def test_one_simulation_does_not_take_over_from_another():
    arbiter = FeedArbiter(standby=["simulated", "toy"])
    assert leads(arbiter, "simulated", T)
    assert not leads(arbiter, "toy", T)


def test_without_symbols_there_is_nothing_to_decide(arbiter):
    assert arbiter.followers([], "alpaca", T) == set()


def test_asking_again_after_a_fault_changes_nothing(arbiter):
    assert arbiter.followers(["AAPL"], "alpaca", T) == arbiter.followers(["AAPL"], "alpaca", T) == set()
    assert arbiter.followers(["AAPL"], "finnhub", T) == arbiter.followers(["AAPL"], "finnhub", T) == {"AAPL"}


def test_each_day_has_a_lead_of_its_own(arbiter):
    monday, tuesday = 20_000, 20_001
    assert arbiter.followers(["AAPL"], "alpaca", T, tuesday) == set()
    assert arbiter.followers(["AAPL"], "finnhub", T, tuesday) == {"AAPL"}
    assert arbiter.followers(["AAPL"], "finnhub", T, monday) == set()
    assert arbiter.followers(["AAPL"], "alpaca", T, monday) == {"AAPL"}


def test_many_days_are_forgotten_after_a_silence(arbiter, monkeypatch):
    monkeypatch.setattr(arbiter, "_many", 100)
    for day in range(100):
        arbiter.followers(["AAPL"], "alpaca", T, day)
    arbiter.followers(["MSFT"], "alpaca", T + SILENCE_MICROS + 1, 0)
    assert len(arbiter._leads) == 1
    assert leads(arbiter, "finnhub", T + SILENCE_MICROS + 1)
