"""Providers are found by name: ours, and the providers of any installed package."""

import os
import subprocess
import sys

import pytest

from app_process import AppProcess
from plugin_package import build_wheel, lay_out
from stockpulse.errors import CannotStart, InvalidInput, NotFound
from stockpulse.ingest.feed_arbiter import FeedArbiter
from stockpulse.providers.base import ProviderConfig, ProviderEntry
from stockpulse.providers.registry import OURS, ProviderRegistry, installed_providers
from stockpulse.providers.simulated import SimulatedProvider
from stockpulse.providers.trade_conditions import algoseek, all_count
from stockpulse.settings import load_settings

ACME = '''
import asyncio
from datetime import UTC, datetime

import polars as pl

from stockpulse.market.schemas import BARS, COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, TICKS
from stockpulse.providers.base import Capabilities, Clock, ProviderEntry


class VendorError(Exception):
    """The vendor's server hung up."""


class AcmeProvider:
    name = "acme"
    calendar = "24/7"
    clock = Clock.WALL
    can_wait = True
    delay_seconds = 0.0
    connections = 0

    def __init__(self, config):
        self.symbols = config.symbols

    async def stream(self):
        AcmeProvider.connections += 1
        if AcmeProvider.connections < 3:
            raise VendorError
        now = datetime.now(UTC)
        rows = [
            {"symbol": symbol, "ts": now, "price": price, "size": size, "conditions": conditions}
            for symbol in self.symbols
            for price, size, conditions in ((10.0, 1.0, None), (99.0, 5.0, "ODD"))
        ]
        yield pl.DataFrame(rows, schema=TICKS)
        await asyncio.Event().wait()

    async def history(self, symbols, interval, start, end):
        raise RuntimeError("nobody may ask: it has no history")
        yield BARS.to_frame()


def rule(conditions, tape):
    return COUNTS_FOR_VOLUME if "ODD" in conditions else COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME


ENTRY = ProviderEntry(
    "acme",
    AcmeProvider,
    aliases=("acme_inc",),
    capabilities=Capabilities(),
    conditions=rule,
    transient=(VendorError,),
)
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, on the path of this process and of the ones that it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)  # no `.env` of the checkout
    installed_providers.cache_clear()
    yield folder
    installed_providers.cache_clear()
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def serving(**environment):
    """The start of a server in a separate process, which is expected to refuse."""
    return subprocess.run(
        [sys.executable, "-m", "stockpulse", "serve", "--port", "0"],
        env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


class TestOurs:
    def test_simulated_is_there_by_both_names(self):
        providers = ProviderRegistry([("StockPulse", entry) for entry in OURS])
        assert providers.names[:2] == ("simulated", "test")
        assert providers.named("test") is providers.named("simulated")
        assert providers.standby == {"simulated"}

    def test_it_is_created_from_the_settings(self):
        made = installed_providers().named("simulated").create(ProviderConfig(("A", "B"), rate=0.5, seed=3))
        assert isinstance(made, SimulatedProvider)
        assert (made.symbols, made.rate) == (("A", "B"), 1.0)

    def test_an_unknown_name_is_refused_with_the_known_ones(self):
        with pytest.raises(NotFound, match="no provider is called 'acme'; there are simulated, test"):
            installed_providers().named("acme")

    def test_senders_that_are_not_registered_have_the_rule_of_their_name(self):
        assert installed_providers().condition_rule("algoseek") is algoseek
        assert installed_providers().condition_rule("desk") is all_count

    @pytest.mark.parametrize("name", ["", "Acme", "1st", "a-b", "x" * 33])
    def test_a_name_that_cannot_be_stored_is_refused(self, name):
        with pytest.raises(InvalidInput, match=r"provider: got .*; takes 1 to 32 of a-z 0-9 _"):
            ProviderEntry(name, SimulatedProvider)


class TestInstalled:
    def test_the_setting_knows_a_provider_of_a_package_and_its_alias(self, site, monkeypatch):
        lay_out(site, "acme-feed", {"acme_feed.py": ACME}, {"acme": "acme_feed:ENTRY"})
        assert {"simulated", "test", "acme", "acme_inc"} <= set(installed_providers().names)
        for name in ("acme", "ACME_INC"):
            monkeypatch.setenv("STOCKPULSE_PROVIDER", name)
            assert load_settings().provider == "acme"
        monkeypatch.setenv("STOCKPULSE_PROVIDER", "acne")
        with pytest.raises(CannotStart, match=r"got 'acne'; takes one of simulated, test, .*acme, acme_inc, none"):
            load_settings()

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_the_app_runs_with_a_provider_that_pip_installed(self, site, tmp_path):
        """Its rule judges its trades, its faults restart its feed, and its missing history is not asked for."""
        wheel = build_wheel(tmp_path, "acme-feed", {"acme_feed.py": ACME}, {"acme": "acme_feed:ENTRY"})
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
        done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
        if "No module named pip" in done.stderr:
            pytest.skip("needs pip")
        assert done.returncode == 0, done.stderr
        with AppProcess(tmp_path / "data", provider="acme", symbols="ONE") as app:
            ticks = app.wait_for("/ticks/latest?symbol=ONE", lambda answer: answer.get("ticks"))
            assert {(tick["provider"], tick["price"]) for tick in ticks} == {("acme", 10.0), ("acme", 99.0)}
            (bar,) = app.wait_for("/bars/latest?symbol=ONE", lambda answer: answer.get("bars"))
            assert (bar["high"], bar["volume_sum"]) == (10.0, 6.0)
            health = app.wait_for("/health", lambda answer: answer)
            assert health["tasks"]["feed:acme"]["restarts"] == 2

    def test_an_entry_on_standby_gives_way_to_others(self, site):
        module = ACME.replace("transient=", "standby=True, transient=")
        lay_out(site, "acme-feed", {"acme_feed.py": module}, {"acme": "acme_feed:ENTRY"})
        arbiter = FeedArbiter(installed_providers().standby)
        assert arbiter.followers(["ONE"], "acme", 0) == set()
        assert arbiter.followers(["ONE"], "desk", 1) == set()
        assert arbiter.followers(["ONE"], "acme", 2) == {"ONE"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("module", "why"),
        [
            ("import nothing_like_that", "cannot be loaded: ModuleNotFoundError: No module named 'nothing_like_that'"),
            ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
            ("", "cannot be loaded: AttributeError: module 'acme_feed' has no attribute 'ENTRY'"),
            ("ENTRY = 'acme'", "is not a ProviderEntry but str"),
        ],
    )
    def test_a_broken_package_stops_the_start_and_is_named(self, site, module, why):
        lay_out(site, "acme-feed", {"acme_feed.py": module}, {"acme": "acme_feed:ENTRY"}, "2.1")
        with pytest.raises(CannotStart) as refused:
            installed_providers()
        assert str(refused.value) == (
            f"entry point 'acme' (acme_feed:ENTRY) of package acme-feed 2.1 {why}; mend or remove it"
        )

    @pytest.mark.parametrize("name", ["simulated", "test", "none"])
    def test_a_name_of_ours_is_not_given_away(self, site, name):
        module = ACME.replace('aliases=("acme_inc",)', f'aliases=("{name}",)')
        lay_out(site, "acme-feed", {"acme_feed.py": module}, {"acme": "acme_feed:ENTRY"})
        with pytest.raises(
            CannotStart, match=f"of package acme-feed 1.0: the provider name '{name}' is taken by Stock"
        ):
            installed_providers()

    def test_two_packages_with_one_name_are_both_named(self, site):
        lay_out(site, "acme-feed", {"acme_feed.py": ACME}, {"acme": "acme_feed:ENTRY"})
        lay_out(site, "acme-fork", {"acme_fork.py": ACME}, {"other": "acme_fork:ENTRY"})
        with pytest.raises(CannotStart) as refused:
            installed_providers()
        assert str(refused.value) == (
            "entry point 'other' (acme_fork:ENTRY) of package acme-fork 1.0: the provider name 'acme' is taken by "
            "entry point 'acme' (acme_feed:ENTRY) of package acme-feed 1.0; remove one"
        )

    @pytest.mark.thorough
    @pytest.mark.slow
    @pytest.mark.parametrize("provider", ["acme", "none"])
    def test_the_server_says_so_in_one_line(self, site, tmp_path, provider):
        lay_out(site, "acme-feed", {"acme_feed.py": "1 / 0"}, {"acme": "acme_feed:ENTRY"})
        done = serving(STOCKPULSE_PROVIDER=provider, STOCKPULSE_DATA_DIR=str(tmp_path / "data"))
        assert done.returncode != 0
        said = "entry point 'acme' (acme_feed:ENTRY) of package acme-feed 1.0 cannot be loaded: ZeroDivisionError"
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
