"""The written pages, and the parts of them that tests compare with the program: sections, tables, examples."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
MANUAL = PROJECT / "src/stockpulse/manual"
SOURCE_MAP = PROJECT / "src/stockpulse/README.md"

RUNNABLE = ("curl ", *(f".venv/bin/stockpulse {name}" for name in ("replay", "dlq", "forget")))
"""The first words of commands that ask a running server."""

ELLIPSIS = "…"
"""Stands in a documented answer for keys that are left out."""


def pages() -> dict[str, Path]:
    """All pages that people read, by their path in the project: the README first, then the manual in its order."""
    index = (MANUAL / "index.md").read_text()
    listed = [MANUAL / f"{name}.md" for name in dict.fromkeys(re.findall(r"\]\(([a-z-]+)\.md\)", index))]
    others = [MANUAL / "index.md", SOURCE_MAP, PROJECT / "CHANGELOG.md", PROJECT / ".github/CONTRIBUTING.md"]
    return {str(path.relative_to(PROJECT)): path for path in (PROJECT / "README.md", *listed, *others)}


def page(name: str) -> str:
    """The text of a page of the manual."""
    return (MANUAL / f"{name}.md").read_text()


def section(text: str, title: str) -> str:
    """The text under a heading of the second level."""
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"there is no section {title}"
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]
    return [row for at, row in enumerate(cells) if not _is_head(lines, at)]


def _is_head(lines: list[str], at: int) -> bool:
    return lines[at].startswith("|---") or (at + 1 < len(lines) and lines[at + 1].startswith("|---"))


def names_in(cell: str) -> list[str]:
    """The texts in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def code(text: str, language: str) -> list[str]:
    """The blocks of code in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A command of a page, and its documented answer; None if the page has no answer."""

    page: str
    command: str
    answer: str | None


def examples() -> Iterator[Example]:
    """All commands that ask a running server, in the order in which a reader meets them."""
    for name, path in pages().items():
        for language, block in re.findall(r"^```(bash|console)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            for one in _of_console(name, block) if language == "console" else _of_bash(name, block):
                if one.command.startswith(
                    ("curl ", ".venv/bin/stockpulse replay", ".venv/bin/stockpulse dlq", ".venv/bin/stockpulse forget")
                ):
                    yield one


def _of_bash(name: str, block: str) -> Iterator[Example]:
    yield Example(name, block.strip(), None)


def _of_console(name: str, block: str) -> Iterator[Example]:
    lines = block.splitlines()
    while lines:
        command = lines.pop(0).removeprefix("$ ")
        while not _is_whole(command):
            command += "\n" + lines.pop(0)
        answer = []
        while lines and not lines[0].startswith("$ "):
            answer.append(lines.pop(0))
        yield Example(name, command, "\n".join(answer).strip())


def _is_whole(command: str) -> bool:
    """Return True if no quotation is open at the end of a command."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def documented_json(answer: str) -> Any:
    """A documented answer as a value; its lines are one text, broken for readers."""
    text = "".join(line.removeprefix(" ") if at else line for at, line in enumerate(answer.splitlines()))
    return json.loads(text.replace(f",{ELLIPSIS}", ""))


def differences(documented: Any, real: Any, *, partial: bool = False, place: str = "") -> list[str]:
    """Return the differences between the shapes of a real and a documented answer; null is any value.

    Codes and messages of errors, and counts of accepted ticks, must be equal. `partial` allows more keys.
    """
    if documented is None or real is None:
        return []
    if _kind(documented) is not _kind(real):
        return [f"{place}: documented {documented!r}, got {real!r}"]
    if isinstance(documented, dict):
        return _differences_of_objects(documented, real, partial=partial, place=place)
    if isinstance(documented, list):
        if documented and not real:
            return [f"{place}: documented {len(documented)} elements, got none"]
        return [
            found
            for at, one in enumerate(documented[: len(real)])
            for found in differences(one, real[at], partial=partial, place=f"{place}[{at}]")
        ]
    exact = place.rpartition(".")[2] in {"code", "message"} or place in {".accepted", ".duplicates"}
    return [f"{place}: documented {documented!r}, got {real!r}"] if exact and documented != real else []


def _differences_of_objects(documented: Any, real: Any, *, partial: bool, place: str) -> list[str]:
    found = [f"{place}: has no {key}" for key in documented.keys() - real.keys()]
    if not partial:
        found += [f"{place}: {key} is not documented" for key in real.keys() - documented.keys()]
    for key in documented.keys() & real.keys():
        found += differences(documented[key], real[key], partial=partial, place=f"{place}.{key}")
    return found


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)
