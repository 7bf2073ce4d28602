"""The tables as SQLAlchemy Core metadata, which Alembic compares with the database.

Names of symbols, providers, exchanges and trade conditions are stored once and referred to by id, so that a tick is a
short row of fixed width. Views, which the migrations create, show the names.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from stockpulse.indicators.stored import STORED_INDICATORS

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "pk": "%(table_name)s_pkey",
    }
)

_TIME = DateTime(timezone=True)
_NOW = text("now()")


def _id() -> Column[int]:
    return Column("id", Integer, Identity(), primary_key=True)


# Names ------------------------------------------------------------------------------------------

symbols = Table(
    "symbols",
    metadata,
    _id(),
    Column("symbol", Text, nullable=False, unique=True),
    Column("calendar", Text, nullable=False, comment="trading calendar of its bars"),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
)

providers = Table(
    "providers",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("clock", Text, nullable=False, comment="clock that closes its bars: wall, or event (a recording)"),
    Column("delay_us", BigInteger, nullable=False, comment="contractual delay of the feed, in microseconds"),
)

tick_kinds = Table(
    "tick_kinds",
    metadata,
    _id(),
    Column("provider_id", Integer, nullable=False),
    Column("exchange", Text, nullable=False, comment="'': unknown"),
    Column("conditions", Text, nullable=False, comment="'': none"),
    Column(
        "flags",
        SmallInteger,
        nullable=False,
        comment="parts of a bar that a tick counts for: flags of market/schemas.py",
    ),
    Column(
        "tape",
        Text,
        nullable=False,
        server_default=text("''"),
        comment="consolidated tape: A to C, N or O; '': unknown",
    ),
    UniqueConstraint("provider_id", "exchange", "tape", "conditions", "flags"),
)

# The log ----------------------------------------------------------------------------------------

journal_heads = Table(
    "journal_heads",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, comment="raised by each new owner of the shard"),
    Column("head", BigInteger, nullable=False, comment="seq of the next record"),
)

realtime_prices = Table(
    "realtime_prices",
    metadata,
    Column("seq", BigInteger, nullable=False, comment="number of the record in the log"),
    Column("symbol_id", Integer, nullable=False),
    Column("kind_id", Integer, nullable=False, comment="provider, exchange, conditions: tick_kinds"),
    Column("ts", _TIME, nullable=False, comment="event time"),
    Column("received_at", _TIME, nullable=False),
    Column("price", Double, nullable=False),
    Column("size", Double, nullable=False),
    Column("trade_id", Text),
    postgresql_partition_by="RANGE (seq)",
)

provider_bars = Table(
    "provider_bars",
    metadata,
    Column("seq", BigInteger, nullable=False, comment="number of the record in the log"),
    Column("symbol_id", Integer, nullable=False),
    Column("provider_id", Integer, nullable=False),
    Column("minutes", Integer, nullable=False, comment="length: 1, 5 or 1440 for a day"),
    Column("ts", _TIME, nullable=False),
    Column("received_at", _TIME, nullable=False),
    Column("open", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("close", Double, nullable=False),
    Column("volume", Double, nullable=False),
    Column("trade_count", BigInteger, nullable=False, comment="-1: unknown"),
    Column("vwap", Double, nullable=False, comment="NaN: unknown"),
    postgresql_partition_by="RANGE (seq)",
)

log_segments = Table(
    "log_segments",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="first seq"),
    Column("min_ts", _TIME, comment="least event time of its ticks; null while it is open"),
    Column("max_ts", _TIME),
    Column("newest_append", _TIME),
    Column("indexed", Boolean, nullable=False, server_default=text("false")),
    Column("end_seq", BigInteger, nullable=False, comment="first seq after it"),
)

# Derived data -----------------------------------------------------------------------------------

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("journal", Text, nullable=False, comment="log of the offset"),
    Column("epoch", BigInteger, nullable=False),
    Column(
        "journal_offset", BigInteger, nullable=False, comment="seq of the first record that is not in the checkpoint"
    ),
    Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    Column(
        "first_seq",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="seq of offset 0 of its log",
    ),
)

forgets = Table(
    "forgets",
    metadata,
    Column(
        "seq",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="number of the forget in the log; it takes back records before it",
    ),
    Column("symbol_id", Integer, comment="null: all symbols of the shard; -1: an unknown symbol"),
    Column("provider_id", Integer, comment="null: all providers; -1: an unknown provider"),
    Column("start_at", _TIME, nullable=False, comment="first event time that is forgotten"),
    Column("end_at", _TIME, nullable=False, comment="first event time that is kept again"),
    Column("received_at", _TIME, nullable=False, server_default=_NOW),
    comment="forgets: ticks and bars of providers that were taken back",
)

corrections = Table(
    "corrections",
    metadata,
    Column(
        "seq",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="number of the record in the log; the right trade has the same in realtime_prices",
    ),
    Column("symbol_id", Integer, nullable=False),
    Column("provider_id", Integer, nullable=False),
    Column("exchange", Text, comment="exchange of the wrong trade; null: any"),
    Column("trade_id", Text, nullable=False, comment="id of the wrong trade"),
    Column(
        "since", _TIME, nullable=False, comment="earliest time of the wrong trade; equal to ts if its time is known"
    ),
    Column("ts", _TIME, nullable=False, comment="latest time of the wrong trade, and the time of the right one"),
    Column("sent_at", _TIME, nullable=False, comment="time in the message of the provider"),
    Column("received_at", _TIME, nullable=False),
    Column("kind_id", Integer, comment="tick_kinds.id of the right trade; null: the trade is cancelled"),
    Column("price", Double, comment="right price; null: the trade is cancelled"),
    Column("size", Double),
    Column("new_trade_id", Text, comment="id of the right trade; null: it stays"),
    comment="corrections and cancels of trades",
)

cancelled_ticks = Table(
    "cancelled_ticks",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="realtime_prices.seq of the tick"),
    Column("symbol_id", Integer, nullable=False),
    Column("ts", _TIME, nullable=False),
    Column("by_seq", BigInteger, nullable=False, comment="corrections.seq of the record that took it back"),
    Index(None, "symbol_id", "ts"),
    Index(None, "by_seq"),
    comment="ticks that corrections took back",
)

left_logs = Table(
    "left_logs",
    metadata,
    Column("journal", Text, nullable=False),
    Column("shard", Integer, nullable=False),
    Column(
        "journal_offset",
        BigInteger,
        nullable=False,
        comment="offset up to which the log was processed, counted by the log itself",
    ),
    Column("left_at", _TIME, nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("journal", "shard"),
)

checkpoint_parts = Table(
    "checkpoint_parts",
    metadata,
    Column("shard", Integer, nullable=False),
    Column("part", BigInteger, nullable=False, comment="0: the whole state; above 0: the changes, in order"),
    Column("state", LargeBinary, nullable=False),
    PrimaryKeyConstraint("shard", "part"),
)


def _digits(name: str, comment: str | None = None) -> Column[int]:
    """Return the column of a part of an exact sum: see `engine/exact_sums.py`."""
    return Column(name, BigInteger, nullable=False, server_default=text("0"), comment=comment)


def _bars(name: str, **options: Any) -> Table[Any]:
    return Table(
        name,
        metadata,
        Column("symbol_id", Integer, nullable=False),
        Column("ts", _TIME, nullable=False, comment="start of the bucket"),
        Column("ends_at", _TIME, nullable=False),
        Column("open", Double, nullable=False, comment="NaN: none of its trades counts for prices"),
        Column("high", Double, nullable=False),
        Column("low", Double, nullable=False),
        Column("close", Double, nullable=False),
        Column("open_us", BigInteger, nullable=False, comment="event time of the first price, epoch microseconds"),
        Column("open_seq", BigInteger, nullable=False),
        Column("close_us", BigInteger, nullable=False),
        Column("close_seq", BigInteger, nullable=False),
        Column("volume_units", BigInteger, nullable=False, comment="-1: unknown"),
        Column("trade_count", BigInteger, nullable=False, comment="-1: unknown"),
        Column("revision", BigInteger, nullable=False, comment="seq of the newest record in the bar"),
        Column("provider_id", Integer, nullable=False, comment="provider that sent the bar; 0: built from trades"),
        _digits("volume_picos", "trillionths of a unit"),
        _digits("vwap_units", "volume of the trades of the vwap; -1: unknown"),
        _digits("vwap_picos"),
        _digits("notional_high", "sum of price x size of these trades; -1: unknown"),
        _digits("notional_middle"),
        _digits("notional_low"),
        Column(
            "by_minutes",
            Boolean,
            nullable=False,
            server_default=text("false"),
            comment="true for a day that is built from minutes, because a provider sent minute bars of it",
        ),
        PrimaryKeyConstraint("symbol_id", "ts"),
        **options,
    )


bars_1m = _bars("bars_1m", postgresql_partition_by="RANGE (ts)")
intraday_ohlcv = _bars("intraday_ohlcv", postgresql_partition_by="RANGE (ts)")
historical_ohlcv = _bars("historical_ohlcv")

time_partitions = Table(
    "time_partitions",
    metadata,
    Column("table_name", Text, nullable=False),
    Column("starts_at", _TIME, nullable=False),
    Column("ends_at", _TIME, nullable=False),
    Column("written_at", _TIME, nullable=False, comment="time of the last write, to the hour"),
    PrimaryKeyConstraint("table_name", "starts_at"),
)

# Indicators and signals --------------------------------------------------------------------------


def _analytics(name: str, *key: Column[Any], **options: Any) -> Table[Any]:
    values = [Column(output, Double) for output in STORED_INDICATORS]
    return Table(name, metadata, Column("symbol_id", Integer, nullable=False), *key, *values, **options)


def _bar_key() -> list[Any]:
    return [
        Column("ts", _TIME, nullable=False, comment="start of the bar"),
        Column("revision", BigInteger, nullable=False, comment="seq of the newest record that it follows from"),
        PrimaryKeyConstraint("symbol_id", "ts"),
    ]


intraday_analytics = _analytics("intraday_analytics", *_bar_key(), postgresql_partition_by="RANGE (ts)")
daily_analytics = _analytics("daily_analytics", *_bar_key())
realtime_analytics = _analytics(
    "realtime_analytics",
    Column("calculated_at", _TIME, nullable=False),
    Column("price_at", _TIME, nullable=False, comment="event time of the price"),
    Column("price", Double, nullable=False),
    Column("moving_average", Double, comment="mean of the newest five prices"),
    Column("ts", _TIME, comment="start of the 5-minute bar of these indicators"),
    PrimaryKeyConstraint("symbol_id", "calculated_at"),  # type: ignore[arg-type]
    postgresql_partition_by="RANGE (calculated_at)",
)

indicator_states = Table(
    "indicator_states",
    metadata,
    Column("track", Text, nullable=False, comment="name of the track: a set of indicators of one interval"),
    Column("symbol_id", Integer, nullable=False),
    Column("ts", _TIME, nullable=False, comment="all bars before this one are in the state"),
    Column(
        "definition", Text, nullable=False, comment="hash of the definition; a state with another hash is not usable"
    ),
    Column("state", LargeBinary, nullable=False),
    PrimaryKeyConstraint("track", "symbol_id", "ts"),
)

signal_rules = Table(
    "signal_rules",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("buy", Text, nullable=False),
    Column("sell", Text, nullable=False),
)

signals = Table(
    "signals",
    metadata,
    Column("symbol_id", Integer, nullable=False),
    Column("minutes", Integer, nullable=False, comment="length of the bar: 1, 5 or 1440 for a day"),
    Column("rule_id", Integer, nullable=False),
    Column("ts", _TIME, nullable=False, comment="start of the bar"),
    Column("signal", SmallInteger, nullable=False, comment="0: hold, 1: buy, 2: sell"),
    Column("price", Double, nullable=False, comment="close of the bar"),
    Column("revision", BigInteger, nullable=False, comment="seq of the newest record that it follows from"),
    PrimaryKeyConstraint("symbol_id", "minutes", "rule_id", "ts"),
    Index(None, "ts"),
    postgresql_partition_by="RANGE (ts)",
)

# Logs of runs and of rejected records -----------------------------------------------------------

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(), nullable=False),
    Column("received_at", _TIME, nullable=False, server_default=_NOW),
    Column("source", Text, nullable=False, comment="provider or topic of the record"),
    Column("reason", Text, nullable=False),
    Column(
        "record", Text, comment="original text of the record, or the record as it was read; cut texts end with …(cut)"
    ),
    Column("topic", Text, comment="topic of the record; null if it was not read from Kafka"),
    Column("topic_partition", Integer),
    Column("topic_offset", BigInteger),
    Column("retried_at", _TIME, comment="time of the successful retry"),
    Column(
        "count",
        BigInteger,
        nullable=False,
        server_default=text("1"),
        comment="number of rejected records that this one stands for; above 1, the others were only counted",
    ),
    PrimaryKeyConstraint("id", "received_at"),
    postgresql_partition_by="RANGE (received_at)",
)

etl_runs = Table(
    "etl_runs",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("source", Text, nullable=False, comment="kind of run: pipeline, backfill:<provider>, replay, retention"),
    Column("status", Text, nullable=False),
    Column("records_processed", BigInteger, nullable=False, server_default=text("0")),
    Column("watermark", _TIME, comment="event time that the run has reached"),
    Column("started_at", _TIME, nullable=False, server_default=_NOW),
    Column("completed_at", _TIME),
    Column("details", JSONB),
)

asked_ranges = Table(
    "asked_ranges",
    metadata,
    Column("provider", Text, nullable=False),
    Column("minutes", Integer, nullable=False, comment="length of the bars: 1, 5 or 1440 for a day"),
    Column("symbol", Text, nullable=False),
    Column("starts_at", _TIME, nullable=False),
    Column("ends_at", _TIME, nullable=False),
    Column("outcome", Text, nullable=False, comment="complete, nothing there, or refused"),
    Column("asked_at", _TIME, nullable=False),
    Column("reason", Text, comment="reason of a refusal"),
    PrimaryKeyConstraint("provider", "minutes", "symbol", "starts_at"),
)

# Requests to providers --------------------------------------------------------------------------

provider_quotas = Table(
    "provider_quotas",
    metadata,
    Column("key", Text, nullable=False, comment="provider, and a hash of its key"),
    Column("day", Date, nullable=False, comment="day in the time zone of the provider"),
    Column(
        "used",
        BigInteger,
        nullable=False,
        comment="requests of the day, or credits where the provider counts these",
    ),
    PrimaryKeyConstraint("key", "day"),
)

raw_market_data = Table(
    "raw_market_data",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("received_at", _TIME, nullable=False),
    Column("provider", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("params", JSONB, nullable=False, comment="parameters of the request, without the key"),
    Column("status", Integer, nullable=False, comment="HTTP status of the reply"),
    Column("outcome", Text, nullable=False, comment="ok, or the kind of the fault that the reply states"),
    Column("body", Text, nullable=False, comment="the reply without keys; cut texts end with …(cut)"),
    Column("body_bytes", BigInteger, nullable=False, comment="size of the stored body"),
)

polling_jobs = Table(
    "polling_jobs",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("status", Text, nullable=False, comment="running or stopped"),
    Column("provider", Text, nullable=False),
    Column("symbols", ARRAY(Text), nullable=False),
    Column("interval_seconds", Double, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("stopped_at", _TIME),
    Column(
        "prices",
        JSONB,
        nullable=False,
        server_default=text("'{}'::jsonb"),
        comment="last price, time and fault of each symbol",
    ),
)

# Live feeds -------------------------------------------------------------------------------------

feed_marks = Table(
    "feed_marks",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("complete_until", _TIME, nullable=False, comment="all data before this event time is stored or a gap"),
)

feed_gaps = Table(
    "feed_gaps",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("provider", Text, nullable=False),
    Column("symbol", Text, comment="null: all symbols of the feed"),
    Column("start_at", _TIME, nullable=False, comment="event time from which on data may be missing"),
    Column("end_at", _TIME, comment="event time from which on data flows again; null: it does not yet"),
    Column("why", Text, nullable=False, comment="reason of the interruption"),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("filled_until", _TIME, comment="up to this event time the gap is filled"),
    Column(
        "rows",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="number of stored ticks and bars that came from filling",
    ),
    Column("problem", Text, comment="reason why the gap is not filled yet, or cannot be filled"),
    Column("filled_at", _TIME),
    CheckConstraint("state IN ('open', 'filling', 'filled', 'cannot')", name="feed_gaps_state_check"),
    Index(
        "feed_gaps_one_begun",
        "provider",
        unique=True,
        postgresql_where=text("end_at IS NULL AND symbol IS NULL"),
    ),
    Index("feed_gaps_unfilled", "provider", "start_at", postgresql_where=text("state <> 'filled'")),
)
