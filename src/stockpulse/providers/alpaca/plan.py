"""The settings of Alpaca: the key, the feed of its plan, the channels of the stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stockpulse.errors import InvalidInput, shown
from stockpulse.providers.base import Option
from stockpulse.providers.option_values import address, choice, whole_number

_STREAM_FEEDS: Final = {
    "iex": "v2",
    "sip": "v2",
    "delayed_sip": "v2",
    "boats": "v1beta1",
    "overnight": "v1beta1",
    "test": "v2",
}
"""The feeds of the stream, and the version in their address."""
_HISTORY_FEEDS: Final = ("sip", "iex", "boats", "otc")
CHANNELS: Final = ("trades", "bars", "updatedBars", "dailyBars")
_CHANNELS_OF_TEST: Final = ("trades", "bars")
_SIP_DELAY_SECONDS: Final = 900.0

KEY: Final = Option(
    "key",
    ("STOCKPULSE_ALPACA_KEY", "APCA_API_KEY_ID"),
    "The key of an account at alpaca.markets; a paper account is free.",
    secret=True,
)
SECRET: Final = Option(
    "secret", ("STOCKPULSE_ALPACA_SECRET", "APCA_API_SECRET_KEY"), "The secret that belongs to the key.", secret=True
)
FEED: Final = Option(
    "feed",
    ("STOCKPULSE_ALPACA_FEED",),
    "The feed of live data: `iex` (free), `sip` (all exchanges), `delayed_sip`, `boats`, `overnight` or `test`.",
    "iex",
)
HISTORY_FEED: Final = Option(
    "history_feed",
    ("STOCKPULSE_ALPACA_HISTORY_FEED",),
    "The feed of bars of the past: `sip`, `iex`, `boats` or `otc`.",
    "sip",
)
LIVE: Final = Option(
    "live",
    ("STOCKPULSE_ALPACA_LIVE",),
    "`stream`, or `bars`: the newest bars every minute of the session, for a key without a stream.",
    "stream",
)
STREAM_CHANNELS: Final = Option(
    "channels", ("STOCKPULSE_ALPACA_CHANNELS",), "The channels of the stream.", ",".join(CHANNELS)
)
ENCODING: Final = Option(
    "encoding", ("STOCKPULSE_ALPACA_ENCODING",), "The encoding of the stream: `json` or `msgpack`.", "json"
)
PER_MINUTE: Final = Option(
    "per_minute", ("STOCKPULSE_ALPACA_PER_MINUTE",), "The requests that the plan allows per minute.", "200"
)
HEARTBEAT: Final = Option(
    "heartbeat_seconds",
    ("STOCKPULSE_ALPACA_HEARTBEAT_SECONDS",),
    "The seconds between two pings of the stream; after two without an answer it is opened again.",
    "10",
)
SILENCE: Final = Option(
    "silence_seconds",
    ("STOCKPULSE_ALPACA_SILENCE_SECONDS",),
    "The seconds without data, within a session, after which the stream is opened again; 0: never.",
    "90",
)
URL: Final = Option(
    "url", ("STOCKPULSE_ALPACA_URL", "APCA_API_DATA_URL"), "The address of the REST API.", "https://data.alpaca.markets"
)
STREAM_URL: Final = Option(
    "stream_url",
    ("STOCKPULSE_ALPACA_STREAM_URL",),
    "The address of the stream, without version and feed.",
    "wss://stream.data.alpaca.markets",
)
OPTIONS: Final = (
    KEY,
    SECRET,
    FEED,
    HISTORY_FEED,
    LIVE,
    STREAM_CHANNELS,
    ENCODING,
    PER_MINUTE,
    HEARTBEAT,
    SILENCE,
    URL,
    STREAM_URL,
)


@dataclass(frozen=True)
class Plan:
    """The values of the options, checked."""

    key: str
    secret: str
    feed: str
    history_feed: str
    streams: bool
    """False: the newest bars every minute instead of the stream."""
    channels: tuple[str, ...]
    msgpack: bool
    per_minute: int
    heartbeat_seconds: float
    silence_seconds: float
    url: str
    stream_url: str
    """With version and feed."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that no message may contain."""
        return (self.key, self.secret)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that REST requests are authorised by."""
        return {"APCA-API-KEY-ID": self.key, "APCA-API-SECRET-KEY": self.secret}

    @property
    def rest_feed(self) -> str:
        """The name of the live feed in requests for trades and bars of the past."""
        return "sip" if self.feed == "delayed_sip" else self.feed

    @property
    def calendar(self) -> str:
        """The calendar of its symbols; the feed for tests never closes."""
        return "24/7" if self.feed == "test" else "XNYS"

    @property
    def delay_seconds(self) -> float:
        """The delay of the live feed."""
        return _SIP_DELAY_SECONDS if self.feed == "delayed_sip" else 0.0


def read_plan(values: Mapping[str, str]) -> Plan:
    """Return the settings in the values of the options. Raises InvalidInput that names the variable."""
    feed = choice(FEED, values, tuple(_STREAM_FEEDS))
    stream_url = address(STREAM_URL, values, "wss", "ws")
    return Plan(
        key=_text(KEY, values),
        secret=_text(SECRET, values),
        feed=feed,
        history_feed=choice(HISTORY_FEED, values, _HISTORY_FEEDS),
        streams=choice(LIVE, values, ("stream", "bars")) == "stream",
        channels=_channels(values, _CHANNELS_OF_TEST if feed == "test" else CHANNELS),
        msgpack=choice(ENCODING, values, ("json", "msgpack")) == "msgpack",
        per_minute=whole_number(PER_MINUTE, values, 1),
        heartbeat_seconds=_seconds(HEARTBEAT, values, above=0),
        silence_seconds=_seconds(SILENCE, values),
        url=address(URL, values, "https", "http"),
        stream_url=f"{stream_url}/{_STREAM_FEEDS[feed]}/{feed}",
    )


def _text(option: Option, values: Mapping[str, str]) -> str:
    text = values.get(option.name, "").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidInput(option.variables[0], "is needed, and is printable ASCII text")  # and the value is a secret
    return text


def _channels(values: Mapping[str, str], known: tuple[str, ...]) -> tuple[str, ...]:
    text = values.get(STREAM_CHANNELS.name) or ",".join(CHANNELS)
    by_name = {channel.lower(): channel for channel in CHANNELS}
    chosen = {name.strip().lower() for name in text.split(",")}
    if not chosen or chosen - by_name.keys():
        raise InvalidInput(STREAM_CHANNELS.variables[0], f"got {shown(text)}; takes some of {', '.join(CHANNELS)}")
    return tuple(channel for channel in known if channel.lower() in chosen)


def _seconds(option: Option, values: Mapping[str, str], above: float = -1) -> float:
    text = values.get(option.name) or option.default or ""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if above < seconds < 1e6 and seconds >= 0:  # noqa: PLR2004 - also not NaN
        return seconds
    raise InvalidInput(option.variables[0], f"got {shown(text)}; takes a number of seconds >= 0")
