"""The map of the source agrees with the source."""

import re
import tomllib
from pathlib import Path

import pytest

from documents import MANUAL, PROJECT, SOURCE_MAP, names_in, rows, section

PACKAGE = PROJECT / "src/stockpulse"
MAP = SOURCE_MAP.read_text()


def layers_of_the_contract() -> list[list[str]]:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [[name.strip() for name in re.split(r"[|:]", layer)] for layer in layers]


def test_the_table_of_layers_is_the_contract() -> None:
    assert [names_in(layer) for layer, _ in rows(section(MAP, "Layers"))] == layers_of_the_contract()


def test_every_module_of_the_package_is_in_a_layer() -> None:
    here = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert here - {"__init__", "__pycache__"} == {name for layer in layers_of_the_contract() for name in layer}


def definitions(text: str) -> set[str]:
    """Names that a file defines: functions, classes, methods with their class, constants."""
    found: set[str] = set()
    within = ""
    for indent, kind, name in re.findall(
        r"^( *)(class |def |async def |)([A-Za-z_]\w*)(?=\(|:|\[| =|\b)", text, re.MULTILINE
    ):
        if not indent:
            within = name if kind == "class " else ""
            found.add(name)
        elif len(indent) == 4 and "def" in kind:
            found |= {f"{within}.{name}", name}
    return found


def places(table: str) -> list[tuple[list[str], list[str]]]:
    """The files and the names of each row of the way of a tick."""
    return [(names_in(files), names_in(names)) for _, files, names, _ in rows(section(MAP, table))]


@pytest.mark.parametrize("row", range(len(places("The way of a tick"))))
def test_each_step_of_a_tick_is_where_the_map_says(row: int) -> None:
    files, names = places("The way of a tick")[row]
    assert files
    known = set().union(*(definitions((PACKAGE / file).read_text()) for file in files))
    assert set(names) - known == set()


def test_each_shape_is_made_where_the_map_says() -> None:
    shapes = rows(section(MAP, "The shapes of rows"))
    assert len(shapes) > 8
    for shape, file, _ in shapes:
        (path,) = names_in(file)
        assert set(names_in(shape)) <= definitions((PACKAGE / path).read_text()), shape


def test_every_file_that_the_map_names_is_there() -> None:
    files = set(re.findall(r"`([\w./]+\.py|[\w/]+/)`", MAP))
    assert len(files) > 15
    assert [file for file in sorted(files) if not (PACKAGE / file).exists()] == []


def glossary(path: Path) -> dict[str, str]:
    return {word: meaning for word, meaning in rows(path.read_text().rpartition("| Word |")[2]) if word}


def test_the_glossaries_agree() -> None:
    ours, users = glossary(SOURCE_MAP), glossary(MANUAL / "glossary.md")
    assert list(ours) == sorted(ours, key=str.lower)
    assert list(users) == sorted(users, key=str.lower)
    assert {word: ours.get(word) for word in users} == users
