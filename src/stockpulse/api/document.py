"""Long lists of valid values in the OpenAPI document: each stands in it once, and parameters refer to it by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI

_MARK: Final = "x-values"
_REPLACED: Final = ("type", "anyOf", "title", _MARK)


def named_schema(name: str) -> dict[str, Any]:
    """Return the `json_schema_extra` of a parameter whose valid values stand under a name."""
    return {_MARK: name}


def install(app: FastAPI, values: Mapping[str, Callable[[], Iterable[str]]]) -> None:
    """Add the values of each name to the document when it is asked for the first time."""
    openapi = app.openapi

    def completed() -> dict[str, Any]:
        document = openapi()
        schemas = document["components"]["schemas"]
        if not values.keys() <= schemas.keys():
            schemas |= {name: {"type": "string", "enum": sorted(of())} for name, of in values.items()}
            _refer(document)
        return document

    app.openapi = completed  # type: ignore[method-assign]


def _refer(document: Mapping[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                schema = parameter["schema"]
                if name := schema.get(_MARK):
                    kept = {key: value for key, value in schema.items() if key not in _REPLACED}
                    parameter["schema"] = {"$ref": f"#/components/schemas/{name}"} | kept
