"""The requests of a client: subscribe, unsubscribe, ping."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from stockpulse.api.stream.formats import SHOWN
from stockpulse.api.time_params import parse_time
from stockpulse.errors import InvalidInput, TooLarge, shown
from stockpulse.hub.messages import ALL, Channel, Topic
from stockpulse.indicators.selection import select
from stockpulse.market.intervals import Interval, parse_interval
from stockpulse.market.symbology import SYMBOL_TAKES, read_symbol

MOST_SYMBOLS: Final = 2_000
"""The maximum number of subscriptions of a connection: symbols, summed over channels and intervals."""
MOST_INDICATORS: Final = 100
"""The maximum number of subscriptions to indicators among them."""
MOST_SNAPSHOT_ROWS: Final = 50_000
MOST_REQUESTS: Final = 100
"""The maximum number of requests in a frame."""
LONGEST_WINDOW: Final = 1440

CHANNELS: Final = tuple(channel for channel in Channel if channel not in SHOWN)

_COMMON: Final = {"action", "id", "channel"}
_FIELDS: Final[dict[str, set[str]]] = {
    "ticks": {"symbols"},
    "prices": {"symbols"},
    "bars": {"symbols", "interval", "forming"},
    "indicators": {"symbols", "interval", "forming", "indicators"},
    "signals": {"symbols"},
    "movers": {"minutes"},
}
_OF_SUBSCRIBE: Final = {"snapshot", "start", "resume"}
_ACTIONS: Final = ("subscribe", "unsubscribe", "ping")


@dataclass(frozen=True)
class Resume:
    """The place where a client was: the stream's name and the number of the last message of the channel."""

    stream: str
    seq: int


@dataclass(frozen=True)
class Request:
    """A request to subscribe or unsubscribe."""

    action: str
    channel: Channel
    symbols: tuple[str, ...] = (ALL,)
    interval: Interval | None = None
    forming: bool = True
    indicators: str = ""
    """The indicators with all their parameters."""
    minutes: int = 0
    snapshot: int = 0
    start: datetime | None = None
    resume: Resume | None = None
    id: Any = None

    @property
    def interval_name(self) -> str:
        """The name of the interval; empty without one."""
        return "" if self.interval is None else self.interval.name

    @property
    def detail(self) -> str:
        """The detail of its topics."""
        return str(self.minutes) if self.channel is Channel.MOVERS else self.indicators

    def topics(self) -> set[Topic]:
        """Return the topics that it names."""
        channels = [self.channel]
        if self.forming:
            channels += [hidden for hidden, channel in SHOWN.items() if channel is self.channel]
        return {
            Topic(channel, symbol, self.interval_name, self.detail) for channel in channels for symbol in self.symbols
        }

    def described(self) -> dict[str, Any]:
        """Return the request as the server has understood it."""
        shown_fields: dict[str, Any] = {"channel": str(self.channel)}
        if self.channel is Channel.MOVERS:
            return shown_fields | {"minutes": self.minutes}
        shown_fields["symbols"] = list(self.symbols)
        if self.interval is not None:
            shown_fields |= {"interval": self.interval.name, "forming": self.forming}
        return shown_fields | ({"indicators": self.indicators} if self.indicators else {})


def read_requests(message: object) -> list[Mapping[str, Any]]:
    """Return the requests of a frame: one object, or an array of objects. Raises InvalidInput."""
    found: list[Any] = message if isinstance(message, list) else [message]
    if len(found) > MOST_REQUESTS:
        raise InvalidInput("frame", f"got {len(found)} requests; takes {MOST_REQUESTS} at most")
    for one in found:
        if not isinstance(one, dict) or not all(isinstance(key, str) for key in one):
            raise InvalidInput("frame", f"got {shown(one)}; takes an object or an array of objects")
    return found


def read_action(fields: Mapping[str, Any]) -> str:
    """Return the action of a request. Raises InvalidInput."""
    action = fields.get("action")
    if action not in _ACTIONS:
        raise InvalidInput("action", f"got {shown(action)}; takes {', '.join(_ACTIONS)}")
    return str(action)


def read_request(fields: Mapping[str, Any]) -> Request:
    """Read a request to subscribe or unsubscribe. Raises InvalidInput for the first wrong field."""
    action = read_action(fields)
    channel = fields.get("channel")
    if channel not in CHANNELS:
        raise InvalidInput("channel", f"got {shown(channel)}; takes {', '.join(CHANNELS)}")
    known = _FIELDS[channel] | (_OF_SUBSCRIBE if action == "subscribe" else set())
    for name in fields:
        if name not in known | _COMMON:
            raise InvalidInput(str(name)[:40], f"is not a field of {channel}; takes {', '.join(sorted(known))}")
    return Request(
        action=action,
        channel=Channel(channel),
        symbols=_symbols(fields, channel) if "symbols" in known else (ALL,),
        interval=_interval(fields) if "interval" in known else None,
        forming=_flag(fields, "forming") if "forming" in known else False,
        indicators=_indicators(fields) if "indicators" in known else "",
        minutes=_number(fields, "minutes", 5, 1, LONGEST_WINDOW) if "minutes" in known else 0,
        snapshot=_number(fields, "snapshot", 0, 0, MOST_SNAPSHOT_ROWS),
        start=_start(fields),
        resume=_resume(fields),
        id=fields.get("id"),
    )


def _symbols(fields: Mapping[str, Any], channel: str) -> tuple[str, ...]:
    given = fields.get("symbols")
    texts = given.split(",") if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInput("symbols", f"got {shown(given)}; takes an array of symbols, or *")
    if len(texts) > MOST_SYMBOLS:
        raise TooLarge(f"symbols: got {len(texts):,}; takes {MOST_SYMBOLS:,} at most, or * for all")
    found = tuple(dict.fromkeys(ALL if text.strip() == ALL else _symbol(text) for text in texts))
    derived = channel == Channel.BARS and (interval := _interval(fields)).base is not interval
    if ALL in found and (derived or channel == Channel.INDICATORS):
        raise InvalidInput("symbols", "indicators, and bars that are not of 1m, 5m or 1d, are for named symbols, not *")
    return found


def _symbol(text: str) -> str:
    symbol = read_symbol(text.strip())
    if symbol is None:
        raise InvalidInput("symbols", f"got {shown(text)}; a symbol {SYMBOL_TAKES}")
    return symbol


def _interval(fields: Mapping[str, Any]) -> Interval:
    text = fields.get("interval", "1m")
    if not isinstance(text, str):
        raise InvalidInput("interval", f"got {shown(text)}; takes a text")
    return parse_interval(text)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, True)
    if not isinstance(value, bool):
        raise InvalidInput(name, f"got {shown(value)}; takes true or false")
    return value


def _number(fields: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(name, f"got {shown(value)}; takes a whole number from {least} to {most:,}")
    return value


def _indicators(fields: Mapping[str, Any]) -> str:
    text = fields.get("indicators")
    if not isinstance(text, str):
        raise InvalidInput("indicators", f"got {shown(text)}; takes a text such as rsi(14),macd")
    return ",".join(one.label for one in select(text, {}, "indicators"))


def _start(fields: Mapping[str, Any]) -> datetime | None:
    value = fields.get("start")
    if value is None or isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise InvalidInput("start", f"got {shown(value)}; takes a time as text")
    return parse_time(value, "start")


def _resume(fields: Mapping[str, Any]) -> Resume | None:
    value = fields.get("resume")
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"stream", "seq"}:
        raise InvalidInput("resume", f"got {shown(value)}; takes an object with stream and seq")
    stream, seq = value["stream"], value["seq"]
    if not isinstance(stream, str) or not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        raise InvalidInput("resume", "takes stream, a text, and seq, a whole number")
    return Resume(stream, seq)
