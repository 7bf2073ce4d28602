"""The description of the stream for machines: an AsyncAPI document."""

from typing import Any, Final

from fastapi import APIRouter

from stockpulse import __version__
from stockpulse.api.stream.requests import (
    CHANNELS,
    LONGEST_WINDOW,
    MOST_REQUESTS,
    MOST_SNAPSHOT_ROWS,
    MOST_SYMBOLS,
)
from stockpulse.hub.messages import Change
from stockpulse.market.intervals import INTERVAL_PATTERN

router = APIRouter(tags=["stream"])

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_SYMBOLS: Final = {
    "oneOf": [{"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_SYMBOLS}, _TEXT],
    "description": "symbols, or * for all",
}
_OF_REQUESTS: Final[dict[str, Any]] = {
    "channel": {"enum": [str(channel) for channel in CHANNELS]},
    "symbols": _SYMBOLS,
    "interval": {"type": "string", "pattern": INTERVAL_PATTERN},
    "forming": {"type": "boolean"},
    "indicators": {"type": "string", "examples": ["rsi(14),macd"]},
    "minutes": {"type": "integer", "minimum": 1, "maximum": LONGEST_WINDOW},
    "id": {"description": "comes back in the answer"},
}
_RESUME: Final = {
    "type": "object",
    "required": ["stream", "seq"],
    "additionalProperties": False,
    "properties": {"stream": _TEXT, "seq": _NUMBER},
}
_REQUESTS: Final[dict[str, Any]] = {
    "subscribe": _OF_REQUESTS
    | {
        "snapshot": {"type": "integer", "minimum": 0, "maximum": MOST_SNAPSHOT_ROWS},
        "start": {"type": "string", "description": "RFC 3339, or a date"},
        "resume": _RESUME,
    },
    "unsubscribe": _OF_REQUESTS,
    "ping": {"id": _OF_REQUESTS["id"]},
}
_MESSAGES: Final[dict[str, Any]] = {
    "welcome": {"stream": _TEXT, "version": _TEXT, "heartbeat_seconds": {"type": "number"}},
    "subscribed": _OF_REQUESTS | {"stream": _TEXT, "seq": _NUMBER, "resumed": {"type": "array", "items": _TEXT}},
    "unsubscribed": _OF_REQUESTS,
    "data": {
        "channel": _OF_REQUESTS["channel"],
        "interval": _TEXT,
        "indicators": _TEXT,
        "minutes": _NUMBER,
        "change": {"enum": ["snapshot", *(str(one) for one in Change if one is not Change.NEW)]},
        "seq": _NUMBER,
        "rows": {"type": "array", "items": {"type": "object"}},
    },
    "missed": {"channel": _OF_REQUESTS["channel"], "rows": _NUMBER, "after": _NUMBER, "through": _NUMBER},
    "heartbeat": {"at": {"type": "string", "format": "date-time"}},
    "pong": {"id": _OF_REQUESTS["id"]},
    "error": {"code": _TEXT, "message": _TEXT, "details": {}, "id": _OF_REQUESTS["id"]},
}


@router.get("/asyncapi.json", summary="The description of the live stream, as AsyncAPI")
async def asyncapi() -> dict[str, Any]:
    """Return the messages of the stream in both directions."""
    return document()


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    requests = {name: _schema("action", name, fields) for name, fields in _REQUESTS.items()}
    messages = {name: _schema("type", name, fields) for name, fields in _MESSAGES.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "StockPulse stream", "version": __version__, "description": "See the manual: /manual/stream"},
        "defaultContentType": "application/json",
        "channels": {
            "stream": {
                "address": "/api/v1/stream",
                "messages": {
                    "requests": {"payload": _one_or_array(requests)},
                    "frames": {"payload": {"type": "array", "items": _any_of(messages)}},
                },
            }
        },
        "operations": {
            "receive": _operation("receive", "requests"),
            "send": _operation("send", "frames"),
        },
        "components": {"schemas": requests | messages},
    }


def _schema(key: str, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    closed = {"additionalProperties": False} if key == "action" else {}
    return {"type": "object", "required": [key], "properties": {key: {"const": name}} | fields} | closed


def _any_of(schemas: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in schemas]}


def _one_or_array(schemas: dict[str, Any]) -> dict[str, Any]:
    one = _any_of(schemas)
    return {"oneOf": [*one["oneOf"], {"type": "array", "items": one, "maxItems": MOST_REQUESTS}]}


def _operation(action: str, message: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/stream"},
        "messages": [{"$ref": f"#/channels/stream/messages/{message}"}],
    }
