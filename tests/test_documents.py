"""What is written about StockPulse is so."""

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from app_process import AppProcess
from plugin_package import lay_out
from stockpulse.app import create_app
from stockpulse.indicators import momentum
from stockpulse.indicators.evaluation import Instance
from stockpulse.ingest.validate import validate_bars, validate_ticks
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.base import ProviderConfig
from stockpulse.settings import Settings, variables_of

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()

METHODS = {"get", "post", "put", "patch", "delete"}


def section(title):
    """The text under a heading of the README."""
    _, _, rest = README.partition(f"\n## {title}\n")
    assert rest, f"README.md has no section {title}"
    return rest.partition("\n## ")[0]


def rows(text):
    """The rows of the tables in a text, without their heads, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for at, row in enumerate(cells) if not _is_head(lines, at)]


def _is_head(lines, at):
    return lines[at].startswith("|---") or (at + 1 < len(lines) and lines[at + 1].startswith("|---"))


def default_of(field):
    """As it is written in an environment variable."""
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
        written = [line for line in section("Settings").splitlines() if line.startswith("| `")]
        assert written == documented

    def test_the_example_names_every_variable_and_changes_nothing(self):
        example = PROJECT / ".env.example"
        written = dict(re.findall(r"^([A-Z_]+)=(.*)$", example.read_text(), re.MULTILINE))
        for field in Settings.model_fields:
            (name,) = [name for name in variables_of(field) if name in written]
            assert written.pop(name) == default_of(field)
        assert written == {}
        assert Settings(_env_file=example) == Settings(_env_file=None)


def test_the_table_of_the_api_is_the_api():
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods if method in METHODS}
    written = [(method, path.strip("`")) for method, path, _ in rows(section("Ask"))]
    assert len(written) == len(set(written))
    assert set(written) == served


class TestProvider:
    @pytest.fixture
    def provider(self):
        (example,) = re.findall(r"```python\n(.*?)```", section("A provider of your own"), re.DOTALL)
        names = {}
        exec(compile(example, "README.md", "exec"), names)
        return names["POLLED"].create(ProviderConfig(("BTC-USD", "ETH-USD"), rate=1, seed=0))

    async def test_streams_ticks_that_are_taken(self, provider):
        stream = provider.stream()
        ticks = await anext(stream)
        await stream.aclose()
        assert ticks.schema == TICKS
        checked = validate_ticks(ticks, datetime.now(UTC), timedelta(seconds=5))
        assert checked.rejected.is_empty()
        assert checked.good["symbol"].to_list() == ["BTC-USD", "ETH-USD"]

    async def test_has_a_history_that_is_taken(self, provider):
        now = datetime.now(UTC)
        frames = [frame async for frame in provider.history("BTC-USD", "1d", now - timedelta(days=9), now)]
        assert [frame.schema for frame in frames] == [BARS]
        assert validate_bars(frames[0], now, timedelta(seconds=5)).rejected.is_empty()

    def test_feeds_the_app(self, tmp_path, monkeypatch):
        text = section("A provider of your own")
        (module,), (table,) = (
            re.findall(r"```python\n(.*?)```", text, re.DOTALL),
            re.findall(r"```toml\n(.*?)```", text, re.DOTALL),
        )
        points = tomllib.loads(table)["project"]["entry-points"]["stockpulse.providers"]
        lay_out(tmp_path / "site", "polled-feed", {"polled_feed.py": module}, points)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with AppProcess(tmp_path / "data", provider="polled", symbols="BTC-USD,ETH-USD") as app:
            ticks = app.wait_for("/ticks/latest?symbol=BTC-USD", lambda answer: answer.get("ticks"))
            assert {(tick["provider"], tick["price"]) for tick in ticks} == {("polled", 7.0)}


def test_the_indicator_of_the_readme_is_one():
    (example,) = re.findall(r"```python\n(.*?)```", section("Indicators and signals"), re.DOTALL)
    names = dict(vars(momentum))
    exec(compile(example, "README.md", "exec"), names)
    loop = Instance(names["disparity"], {"period": 2}).loop
    world = {}
    exec(loop.text, world)
    closes, out, one = np.array([10.0, 30.0]), np.empty((1, 2)), np.zeros(1, np.int64)
    world["loop"](
        np.zeros((1, loop.width)), one, one, one + 2, 0, *[closes] * 6, out, loop.whole, loop.real, loop.places
    )
    assert np.isnan(out[0, 0])
    assert out[0, 1] == 50


def test_every_path_that_the_readme_names_is_there():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    tree = re.findall(r"^ {4}([\w.]+/?) ", section("The source"), re.MULTILINE)
    folders = re.findall(r"^(\w+/)  ", section("The source"), re.MULTILINE)
    assert len(tree) > 10
    assert len(folders) == 2
    for path in (*links, *folders, *(f"src/stockpulse/{name}" for name in tree), ".ci/run", "requirements.lock"):
        assert (PROJECT / path).exists(), path


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
    """Nor to a package index: where packages come from is the business of whoever installs them."""
    hosts = {"127.0.0.1", "127.0.0.1:8000", "keepachangelog.com", "semver.org"}
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
