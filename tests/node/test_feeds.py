"""Several feeds run at once: each in a task of its own, with one transport and a state on /health."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from plugin_package import lay_out
from stockpulse.api.feed_report import feed_reports
from stockpulse.node.lifecycle import running
from stockpulse.providers.registry import installed_providers
from stockpulse.settings import Settings

VENDORS = """
from datetime import UTC, datetime

from stockpulse.providers.base import Option, ProviderEntry
from stockpulse.providers.faults import WrongKey
from stockpulse.testing import ScriptedProvider, ticks_frame

CREATED = []


def steady(config):
    CREATED.append(config)
    now = datetime.now(UTC)
    rows = [{"symbol": one, "ts": now, "price": 1.0, "size": 1.0} for one in config.symbols]
    return ScriptedProvider([ticks_frame(*rows)], name="steady", live=True, can_wait=False)


def refused(config):
    CREATED.append(config)
    return ScriptedProvider([WrongKey("refused knows no such key")], name="refused")


STEADY = ProviderEntry("steady", steady)
REFUSED = ProviderEntry(
    "refused", refused, options=(Option("key", ("STOCKPULSE_REFUSED_KEY",), "Key.", secret=True),)
)
"""


@pytest.fixture
def vendors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Two installed providers; the configurations that they were created with."""
    monkeypatch.chdir(tmp_path)  # no `.env` of the checkout
    points = {"steady": "vendors_of_tests:STEADY", "refused": "vendors_of_tests:REFUSED"}
    lay_out(tmp_path / "site", "vendors-of-tests", {"vendors_of_tests.py": VENDORS}, points)
    monkeypatch.syspath_prepend(tmp_path / "site")
    installed_providers.cache_clear()
    installed_providers()
    yield sys.modules["vendors_of_tests"].CREATED
    installed_providers.cache_clear()
    del sys.modules["vendors_of_tests"]


async def until(true):
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_two_feeds_of_which_one_is_refused(vendors, postgres_dsn, monkeypatch):
    monkeypatch.setenv("STOCKPULSE_REFUSED_KEY", "canary-of-the-key")
    settings = Settings(
        _env_file=None,
        database_url=postgres_dsn,
        feeds="steady: A, B (XLON); refused: C",
        signal_rules={},
    )
    registry = CollectorRegistry()
    async with running(settings, registry) as context:
        await until(lambda: {feed.phase for feed in context.feeds.values()} == {"live", "refused"})
        await until(lambda: {"A", "B"} <= context.names.symbols.keys())
        steady, refused = feed_reports(context.feeds).values()
        assert (steady.state, steady.symbols, steady.messages_sent, steady.why) == ("live", 2, 2, None)
        assert (refused.state, refused.symbols, refused.messages_sent) == ("refused", 1, 0)
        assert refused.why == "refused knows no such key"
        assert [context.names.symbols[one].calendar for one in "AB"] == ["24/7", "XLON"]
        tasks = context.supervisor.of_stage("feed")
        assert (tasks["feed:steady"].state.value, tasks["feed:refused"].state.value) == ("running", "done")
        of_steady, of_refused = ({"provider": name} for name in ("steady", "refused"))
        assert registry.get_sample_value("stockpulse_feed_messages_total", of_steady) == 2.0
        assert [registry.get_sample_value("stockpulse_feed_up", one) for one in (of_steady, of_refused)] == [1.0, 0.0]
    first, second = vendors
    assert first.transport is second.transport
    assert (first.options, second.options) == ({}, {"key": "canary-of-the-key"})
    assert "canary" not in repr(settings)
