"""The documents agree with the program."""

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import asyncpg
import numpy as np
import pytest
import typer

import documents
from app_process import AppProcess
from documents import PROJECT
from plugin_package import lay_out
from stockpulse.api import manual
from stockpulse.app import create_app
from stockpulse.cli import cli
from stockpulse.indicators import momentum
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.evaluation import Instance
from stockpulse.ingest.validate import validate_ticks
from stockpulse.market.rows import TICK_FIELDS
from stockpulse.market.schemas import DAY_FIRST_PRICE, DAY_PRICE, DAY_VOLUME, TICKS
from stockpulse.market.symbology import read_symbol
from stockpulse.market.times import read_time
from stockpulse.node.log_migration import Target
from stockpulse.providers.base import ProviderConfig, ProviderEntry
from stockpulse.providers.faults import BadRequest
from stockpulse.providers.registry import OURS
from stockpulse.providers.trade_conditions import ALL, RULES, alpaca
from stockpulse.rules import parse
from stockpulse.settings import Settings, variables_of
from stockpulse.storage.retention import RETENTION

METHODS = {"get", "post", "put", "patch", "delete"}
MOST_WORDS_OF_THE_README = 1_200
PAGES = documents.pages()


def default_of(field):
    """Return the default in the form of an environment variable."""
    value = Settings.model_fields[field].default
    if Settings.model_fields[field].default_factory or value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, dict):
        return json.dumps({name: rule.model_dump() for name, rule in value.items()})
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_backticks(text):
    return f"`{text}`" if text else ""


class TestSettings:
    def test_the_table_is_the_class(self):
        documented = [
            f"| {', '.join(map(in_backticks, variables_of(name)))} | {in_backticks(default_of(name))} | {meaning} |"
            for name, meaning in ((name, field.description) for name, field in Settings.model_fields.items())
        ]
        table = documents.page("settings").partition("\n## ")[0]
        assert [line for line in table.splitlines() if line.startswith("| `")] == documented

    def test_the_tables_of_the_providers_are_their_options(self):
        for entry in [entry for entry in OURS if entry.options]:
            documented = [
                f"| {', '.join(map(in_backticks, one.variables))} | {in_backticks(one.default)} | {one.description} |"
                for one in entry.options
            ]
            table = documents.section(documents.page("settings"), entry.name)
            assert [line for line in table.splitlines() if line.startswith("| `")] == documented

    def test_the_example_names_every_variable_and_changes_nothing(self):
        example = PROJECT / ".env.example"
        written = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", example.read_text(), re.MULTILINE))
        for field in Settings.model_fields:
            (name,) = [name for name in variables_of(field) if name in written]
            assert written.pop(name) == default_of(field)
        assert written == {}
        assert Settings(_env_file=example) == Settings(_env_file=None)

    def test_the_example_says_what_the_class_says(self):
        comments = re.findall(r"^# (.*)\n[A-Z0-9_]+=", (PROJECT / ".env.example").read_text(), re.MULTILINE)
        assert comments == [field.description.replace("`", "") for field in Settings.model_fields.values()]

    def test_no_page_names_a_variable_that_does_not_exist(self):
        known = {name for field in Settings.model_fields for name in variables_of(field)}
        known |= {name for entry in OURS for option in entry.options for name in option.variables}
        tests_only = {"STOCKPULSE_CRASH_KILLS", "STOCKPULSE_CRASH_THOROUGH"}
        for name, path in PAGES.items():
            named = set(re.findall(r"\bSTOCKPULSE_[A-Z0-9_]+", path.read_text()))
            assert named - known - tests_only == set(), name


class TestApi:
    @pytest.fixture
    def schema(self):
        return create_app(Settings(_env_file=None)).openapi()

    def test_the_table_is_the_api(self, schema):
        paths = schema["paths"]
        served = {(method.upper(), path) for path, methods in paths.items() for method in methods if method in METHODS}
        table = documents.page("api").partition("\n## ")[0]
        written = [(method, path.strip("`")) for method, path, _ in documents.rows(table)]
        assert len(written) == len(set(written))
        assert set(written) == served

    def test_the_parameters_of_sending_ticks(self, schema):
        parameters = schema["paths"]["/api/v1/ticks"]["post"]["parameters"]
        table = documents.rows(documents.section(documents.page("sending-ticks"), "Parameters"))
        assert {row[0].strip("`") for row in table} == {one["name"] for one in parameters}
        fixed = {one["name"]: str(one["schema"]["default"]) for one in parameters if "default" in one["schema"]}
        written = {name.strip("`"): default.strip("`") for name, default, _ in table}
        assert {name: written[name] for name in fixed} == {name: value.lower() for name, value in fixed.items()}

    def test_the_fields_of_a_tick(self):
        table = documents.rows(documents.section(documents.page("sending-ticks"), "Fields"))
        written = [(documents.names_in(name) + documents.names_in(also)) for name, also, _ in table]
        assert written == [list(field.names) for field in TICK_FIELDS]

    def test_the_times_are_read(self):
        table = documents.rows(documents.section(documents.page("sending-ticks"), "Times"))
        read = {text: read_time(text) for _, examples in table for text in documents.names_in(examples)}
        assert len(read) > 8
        assert None not in read.values()
        assert {moment.date().isoformat() for moment in read.values()} == {"2026-11-24", "2017-01-01"}

    def test_the_docs_lead_to_the_manual(self, schema):
        assert "](manual)" in schema["info"]["description"]


class TestCommands:
    def test_the_table_of_commands_is_the_command_line(self):
        table = documents.section(documents.page("operation"), "Commands")
        written = {name for cells in documents.rows(table) for name in self._commands(documents.names_in(cells[0]))}
        assert written == set(self._paths(typer.main.get_command(cli)))

    def _commands(self, names):
        """`dlq list`, then `dlq retry` or, of the same group, `retry`; a `stockpulse` before them says nothing."""
        group = ""
        for name in (name.removeprefix("stockpulse ") for name in names):
            group = name.partition(" ")[0] if " " in name else group
            yield name if " " in name or not group else f"{group} {name}"

    def _paths(self, command, before=""):
        for name, one in command.commands.items():
            if hasattr(one, "commands"):
                yield from self._paths(one, f"{before}{name} ")
            elif name == "move":
                yield from (f"move {target}" for target in get_args(Target))
            else:
                yield f"{before}{name}"

    def test_the_options_of_replay(self):
        options = {
            one.opts[0]: one.default or ""
            for one in typer.main.get_command(cli).commands["replay"].params
            if one.param_type_name == "option"
        }
        table = documents.page("replaying-recordings").partition("\n## ")[0]
        written = {row[0].strip("`"): row[1].strip("`") for row in documents.rows(table)}
        assert written == options


class TestTables:
    def test_how_long_data_is_kept(self):
        table = documents.rows(documents.section(documents.page("database"), "How long data is kept"))
        written = {name.strip("`"): _timedelta(kept) for name, _, kept in table}
        kept = {name: rule.kept for name, rule in RETENTION.items()}
        assert {name: time for name, time in written.items() if time is not None} == kept

    async def test_the_views_have_these_columns(self, postgres_dsn):
        connection = await asyncpg.connect(postgres_dsn)
        for view, columns in documents.rows(documents.page("sql-views")):
            found = await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position",
                view.strip("`"),
            )
            written = re.sub(r" \([^)]*\)", "", columns).split(", ")
            assert [row["column_name"] for row in found] == written
        (query,) = documents.code(documents.page("sql-views"), "sql")
        await connection.fetch(query)
        await connection.close()

    def test_the_conditions_of_the_manual_are_conditions(self):
        lines = [line for block in documents.code(documents.page("rules"), "rules") for line in block.splitlines()]
        assert len(lines) > 2
        for line in lines:
            parse(line)

    def test_the_rules_of_the_manual_can_be_set(self, monkeypatch):
        (block,) = documents.code(documents.page("signals"), "bash")
        for name, value in re.findall(r"^export (\w+)='?(.*?)'?$", block, re.MULTILINE):
            monkeypatch.setenv(name, value)
        settings = Settings(_env_file=None)
        assert (settings.signal_interval, list(settings.signal_rules)) == ("5m", ["breakout"])

    def test_the_symbols_of_the_manual_are_symbols(self):
        (sentence,) = re.findall(
            r"names of most vendors are valid: (.*?)\. A part", documents.page("symbols"), re.DOTALL
        )
        symbols = documents.names_in(sentence)
        assert len(symbols) > 10
        assert [symbol for symbol in symbols if read_symbol(symbol) != symbol] == []

    def test_the_rules_for_trade_conditions(self):
        table = documents.page("trade-conditions").partition("\n## ")[0]
        assert [name.strip("`") for name, *_ in documents.rows(table)] == list(RULES)

    def test_alpacas_table(self):
        table = documents.rows(documents.section(documents.page("trade-conditions"), "Alpaca's table"))
        assert len(table) > 10
        for conditions, tapes, minute, day in table:
            codes = [" "] * ("space" in conditions) + documents.names_in(conditions)
            for tape in tapes.split():
                effects = {_effects(alpaca(code, tape)) for code in codes}
                assert effects == {(minute, day)}, (conditions, tape)


def _effects(flags):
    """Return the parts of minute and daily bars that a trade updates, in the words of the manual."""
    minute = {3: "everything", 2: "volume", 1: "prices", 0: "nothing"}[flags & ALL]
    day = [
        word
        for word, flag in (("prices", DAY_PRICE), ("volume", DAY_VOLUME), ("first", DAY_FIRST_PRICE))
        if flags & flag
    ]
    return minute, "everything" if day == ["prices", "volume"] else ", ".join(day) or "nothing"


def _timedelta(text):
    found = re.match(r"(\d+) (hour|day|year)", text)
    days = {"hour": 1 / 24, "day": 1, "year": 365}
    return timedelta(days=int(found[1]) * days[found[2]]) if found else None


class TestProvider:
    @pytest.fixture
    def provider(self):
        (example,) = documents.code(documents.page("your-own-provider"), "python")
        names = {}
        exec(compile(example, "your-own-provider.md", "exec"), names)
        return names["POLLED"].create(ProviderConfig(("BTC-USD", "ETH-USD"), rate=1, seed=0))

    async def test_streams_ticks_that_are_taken(self, provider):
        stream = provider.stream()
        ticks = await anext(stream)
        await stream.aclose()
        assert ticks.schema == TICKS
        checked = validate_ticks(ticks, datetime.now(UTC), timedelta(seconds=5))
        assert checked.rejected.is_empty()
        assert checked.good["symbol"].to_list() == ["BTC-USD", "ETH-USD"]

    async def test_refuses_what_it_does_not_have(self, provider):
        now = datetime.now(UTC)
        with pytest.raises(BadRequest, match="polled has no bars of the past"):
            await anext(provider.history(["BTC-USD"], "1d", now - timedelta(days=9), now))

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_feeds_the_app(self, tmp_path, monkeypatch):
        text = documents.page("your-own-provider")
        (module,), (table,) = documents.code(text, "python"), documents.code(text, "toml")
        points = tomllib.loads(table)["project"]["entry-points"]["stockpulse.providers"]
        lay_out(tmp_path / "site", "polled-feed", {"polled_feed.py": module}, points)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with AppProcess(tmp_path / "data", provider="polled", symbols="BTC-USD,ETH-USD") as app:
            ticks = app.wait_for("/ticks/latest?symbol=BTC-USD", lambda answer: answer.get("ticks"))
            assert {(tick["provider"], tick["price"]) for tick in ticks} == {("polled", 7.0)}

    def test_the_table_of_its_entry_is_the_class(self):
        table = documents.rows(documents.section(documents.page("your-own-provider"), "The fields of the entry"))
        assert [row[0].strip("`") for row in table] == [field.name for field in dataclasses.fields(ProviderEntry)]


def test_the_indicator_of_the_manual_is_one():
    (example,) = documents.code(documents.page("your-own-indicator"), "python")
    names = dict(vars(momentum))
    exec(compile(example, "your-own-indicator.md", "exec"), names)
    loop = Instance(names["disparity"], {"period": 2}).loop
    world = {}
    exec(loop.text, world)
    closes, out, one = np.array([10.0, 30.0]), np.empty((1, 2)), np.zeros(1, np.int64)
    world["loop"](
        np.zeros((1, loop.width)),
        one,
        one,
        one + 2,
        0,
        *[closes] * len(INPUTS),
        out,
        loop.int_params,
        loop.float_params,
        loop.places,
    )
    assert np.isnan(out[0, 0])
    assert out[0, 1] == 50


class TestPages:
    def test_the_readme_is_short(self):
        assert len((PROJECT / "README.md").read_text().split()) <= MOST_WORDS_OF_THE_README

    def test_the_index_lists_every_page(self):
        assert {path.name for path in documents.MANUAL.glob("*.md")} == {
            path.name for path in PAGES.values() if path.parent == documents.MANUAL
        }

    @pytest.mark.parametrize("name", PAGES)
    def test_every_link_leads_somewhere(self, name):
        path = PAGES[name]
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", documents.prose(path.read_text())):
            target, _, place = link.partition("#")
            led = path.parent / target if target else path
            assert led.exists(), link
            if place:
                headings = re.findall(r"^#+ (.*)$", documents.prose(led.read_text()), re.MULTILINE)
                assert place in {manual.anchor(heading) for heading in headings}, link

    @pytest.mark.parametrize("name", PAGES)
    def test_every_file_that_a_page_names_is_there(self, name):
        text = PAGES[name].read_text()
        named = re.findall(
            r"`((?:src|tests|migrations|stockpulse|\.ci|\.github)/[\w./-]*|[\w.-]+\.(?:lock|toml|ini))`", text
        )
        for file in named:
            places = (PROJECT / file, PROJECT / "src" / file)
            assert any(place.exists() for place in places), file

    def test_no_line_is_too_long_to_read_in_an_editor(self):
        for name, path in PAGES.items():
            long = [
                line for line in path.read_text().splitlines() if len(line) > 150 and not line.startswith(("|", "{"))
            ]
            assert long == [], name


@pytest.mark.thorough
@pytest.mark.slow
def test_every_message_of_troubleshooting_is_one_of_ours():
    trees = [ast.parse(path.read_text()) for path in (PROJECT / "src").rglob("*.py")]
    texts = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    ours = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    table = documents.rows(documents.page("troubleshooting"))
    messages = [name for cells in table for name in documents.names_in(cells[0]) if " " in name or "…" in name]
    assert len(messages) > 12
    for message in set(messages) - {"address already in use"}:  # the system says that
        for part in message.split("…"):
            assert any(part.strip() in text for text in ours), f"{message}: nothing says {part.strip()!r}"


def test_pre_commit_runs_what_ci_runs():
    in_ci = {
        " ".join(line.split()[1:])
        for line in (PROJECT / ".ci/run").read_text().splitlines()
        if line.startswith("check ")
    }
    hooks = re.findall(r"^        name: (.*)$", (PROJECT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert len(hooks) > 3
    assert set(hooks) <= {command.partition(" #")[0] for command in in_ci}


def tracked_texts():
    """The files that are, or would be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = PROJECT / name
        if path.is_file() and path != Path(__file__):
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode()


def test_no_file_names_the_machine_that_it_was_written_on():
    places = [str(place) for place in (PROJECT, Path.home(), Path(sys.prefix)) if len(place.parts) > 2]
    mine = re.compile("|".join([r"(?<![\w.])/(?:home|Users)/\w", *map(re.escape, places)]))
    assert [(name, found[0]) for name, text in tracked_texts() if (found := mine.search(text))] == []


def test_the_project_refers_to_no_other_hosts():
    """Nor to a package index: the user chooses the source of packages."""
    hosts = {"127.0.0.1", "127.0.0.1:8000", "keepachangelog.com", "semver.org", "desk.example", "market.example"}
    hosts |= {urlsplit(option.default or "").netloc for entry in OURS for option in entry.options}
    found = {
        (name, host)
        for name, text in tracked_texts()
        if not name.startswith("tests/")
        for host in re.findall(r"https?://([\w.:-]+)", text) + re.findall(r"--(?:extra-)?index-url", text)
    }
    assert {host for _, host in found} <= hosts, sorted(found)


def test_one_place_configures_logging():
    configures = re.compile(r"structlog\.configure|logging\.basicConfig|dictConfig")
    sources = (PROJECT / "src").rglob("*.py")
    assert [path.name for path in sources if configures.search(path.read_text())] == ["logs.py"]


class TestLock:
    PINNED = re.compile(r"[A-Za-z0-9._-]+==[^\s=;@]+")

    def test_pins_versions_and_nothing_else(self):
        lines = (PROJECT / "requirements.lock").read_text().splitlines()
        assert [line for line in lines if not line.startswith("#") and not self.PINNED.fullmatch(line)] == []

    def test_pins_every_dependency(self):
        project = (PROJECT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
        wanted = re.findall(r'^    "([A-Za-z0-9_-]+)(?:\[\w+\])?[<>=]', project, re.MULTILINE)
        assert len(wanted) > 20
        lock = (PROJECT / "requirements.lock").read_text()
        pinned = {_normal(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
        assert {_normal(name) for name in wanted} - pinned == set()


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
