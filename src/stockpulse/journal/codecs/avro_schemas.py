"""Our Avro schemas, which are in the folder `schemas`, and the check of other programs' schemas."""

from importlib import resources
from typing import Any, Final

NAMES: Final = ("Tick", "Bar", "End", "Ohlcv", "Analytics", "Signal", "Forget", "Correction")
_NAMESPACE: Final = "stockpulse"


def subject_of(name: str) -> str:
    """Return the registry's subject for a record.

    The strategy is RecordNameStrategy: the raw topic holds several kinds of records, and a record has the same schema
    on whichever topic the settings put it.
    """
    return f"{_NAMESPACE}.{name}"


def schema_of(name: str) -> str:
    """Return our schema of a record, as JSON."""
    return (resources.files(__package__) / "schemas" / f"{name.lower()}.avsc").read_text("utf-8")


def without_meaning(schema: Any, but: str | None = None) -> Any:
    """Return the schema without logical types, except those whose name begins with `but`.

    Without them, times are plain numbers, and UUIDs or decimals do not become objects.
    """
    if isinstance(schema, list):
        return [without_meaning(one, but) for one in schema]
    if not isinstance(schema, dict):
        return schema
    meaning = schema.get("logicalType")
    off = isinstance(meaning, str) and not (but is not None and meaning.startswith(but))
    return {key: without_meaning(value, but) for key, value in schema.items() if not (off and key == "logicalType")}


def check(schema: Any) -> None:
    """Raise ValueError for a schema that lets a short record take unlimited time or depth to read."""
    _takes_bytes(schema, {}, ())


def _takes_bytes(schema: Any, known: dict[str, bool], within: tuple[str, ...]) -> bool:
    """Return True if each value takes at least a byte. `known` holds named types, `within` the enclosing types."""
    if isinstance(schema, list):
        for branch in schema:
            _takes_bytes(branch, known, within)
        return True  # the index of the branch
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
