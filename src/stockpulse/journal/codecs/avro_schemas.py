"""Avro schemas: ours, which stand in the folder `schemas`, and what others' must not be."""

from importlib import resources
from typing import Any, Final

NAMES: Final = ("Tick", "Bar", "End", "Ohlcv", "Analytics", "Signal")
_NAMESPACE: Final = "stockpulse"


def subject_of(name: str) -> str:
    """Under which subject of the registry a record is.

    RecordNameStrategy: the raw topic has several kinds of records, and one of ours looks the same on whichever
    topic the settings put it.
    """
    return f"{_NAMESPACE}.{name}"


def schema_of(name: str) -> str:
    """Our schema of a record, as JSON."""
    return (resources.files(__package__) / "schemas" / f"{name.lower()}.avsc").read_text("utf-8")


def without_meaning(schema: Any, but: str | None = None) -> Any:
    """The schema with its logical types taken off, but for those that begin so: what they mark is read as it stands.

    A time is then the number that it is; and nobody's UUIDs or decimals come as objects.
    """
    if isinstance(schema, list):
        return [without_meaning(one, but) for one in schema]
    if not isinstance(schema, dict):
        return schema
    meaning = schema.get("logicalType")
    off = isinstance(meaning, str) and not (but is not None and meaning.startswith(but))
    return {key: without_meaning(value, but) for key, value in schema.items() if not (off and key == "logicalType")}


def check(schema: Any) -> None:
    """Refuse, by a ValueError, a schema by which a short record can take any time or any depth to read."""
    _takes_bytes(schema, {}, ())


def _takes_bytes(schema: Any, known: dict[str, bool], within: tuple[str, ...]) -> bool:
    """Whether each value takes a byte at least. `known`: the named types so far; `within`: those around this one."""
    if isinstance(schema, list):
        for branch in schema:
            _takes_bytes(branch, known, within)
        return True  # which branch it is
    if not isinstance(schema, dict):
        return _named_takes_bytes(_last(schema), known, within)
    if "name" in schema:
        name = _last(schema["name"])
        known[name] = _inside_takes_bytes(schema, known, (*within, name))
        return known[name]
    return _inside_takes_bytes(schema, known, within)


def _inside_takes_bytes(schema: dict[str, Any], known: dict[str, bool], within: tuple[str, ...]) -> bool:
    match schema["type"]:
        case "record" | "error":
            fields = [_takes_bytes(field["type"], known, within) for field in schema["fields"]]
            return any(fields)
        case "fixed":
            return bool(schema["size"] > 0)
        case "array":
            if not _takes_bytes(schema["items"], known, within):
                raise ValueError("an array of nothing may be of any length")
            return True
        case "map":
            return _takes_bytes(schema["values"], known, within) or True
        case "enum":
            return True
        case other:
            return _takes_bytes(other, known, within)


def _named_takes_bytes(name: str, known: dict[str, bool], within: tuple[str, ...]) -> bool:
    if name in within:
        raise ValueError(f"{name} contains itself")
    return known.get(name, name != "null")


def _last(name: Any) -> str:
    return str(name).rpartition(".")[2]
