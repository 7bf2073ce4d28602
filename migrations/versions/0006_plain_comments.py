"""Comments of columns and tables in plain words."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COMMENTS = (
    # table, column (None: the table itself), the former comment, the new one
    ("symbols", "calendar", "which trading days its daily bars follow", "trading calendar of its bars"),
    (
        "providers",
        "clock",
        "what closes its bars: wall, or event (a recording)",
        "clock that closes its bars: wall, or event (a recording)",
    ),
    (
        "providers",
        "delay_us",
        "how far behind the market it is by contract",
        "contractual delay of the feed, in microseconds",
    ),
    ("tick_kinds", "exchange", "'': not said", "'': unknown"),
    (
        "tick_kinds",
        "flags",
        "what a tick counts for: see market/schemas.py",
        "parts of a bar that a tick counts for: flags of market/schemas.py",
    ),
    (
        "tick_kinds",
        "tape",
        "the consolidated tape, A to C, N or O; '': not said",
        "consolidated tape: A to C, N or O; '': unknown",
    ),
    ("journal_heads", "epoch", "raised by whoever takes the shard over", "raised by each new owner of the shard"),
    ("journal_heads", "head", "offset of the next record", "seq of the next record"),
    ("realtime_prices", "seq", "log offset", "number of the record in the log"),
    ("provider_bars", "seq", "log offset", "number of the record in the log"),
    ("provider_bars", "trade_count", "-1: not said", "-1: unknown"),
    ("provider_bars", "vwap", "NaN: not said", "NaN: unknown"),
    ("log_segments", "id", "first offset", "first seq"),
    (
        "log_segments",
        "min_ts",
        "of the ticks in it; null while it is open",
        "least event time of its ticks; null while it is open",
    ),
    ("log_segments", "end_seq", "first offset after it", "first seq after it"),
    ("checkpoints", "journal", "which log the offset counts in", "log of the offset"),
    (
        "checkpoints",
        "journal_offset",
        "of the first record not in it",
        "seq of the first record that is not in the checkpoint",
    ),
    ("checkpoints", "first_seq", "what the offsets of its log are counted from", "seq of offset 0 of its log"),
    (
        "forgets",
        None,
        "which ticks and bars of providers were taken back",
        "forgets: ticks and bars of providers that were taken back",
    ),
    (
        "forgets",
        "seq",
        "log offset: the records before it are forgotten",
        "number of the forget in the log; it takes back records before it",
    ),
    (
        "forgets",
        "symbol_id",
        "null: all symbols of the shard; -1: an unknown one",
        "null: all symbols of the shard; -1: an unknown symbol",
    ),
    (
        "forgets",
        "provider_id",
        "null: all providers; -1: an unknown one",
        "null: all providers; -1: an unknown provider",
    ),
    ("forgets", "start_at", "the first event time that is forgotten", "first event time that is forgotten"),
    ("forgets", "end_at", "the first event time after those", "first event time that is kept again"),
    (
        "left_logs",
        "journal_offset",
        "up to where it was worked in, as the log itself counts",
        "offset up to which the log was processed, counted by the log itself",
    ),
    (
        "checkpoint_parts",
        "part",
        "0: the whole state; then what changed, in order",
        "0: the whole state; above 0: the changes, in order",
    ),
    ("bars_1m", "open", "NaN: no trade in it counts for prices", "NaN: none of its trades counts for prices"),
    ("bars_1m", "revision", "log offset of the newest record in it", "seq of the newest record in the bar"),
    (
        "bars_1m",
        "provider_id",
        "whose own bar it is; 0: built from trades",
        "provider that sent the bar; 0: built from trades",
    ),
    (
        "bars_1m",
        "vwap_units",
        "volume of the trades that the vwap is made of; -1: unknown",
        "volume of the trades of the vwap; -1: unknown",
    ),
    (
        "bars_1m",
        "by_minutes",
        "a day that is built from minutes, since a provider gave some of them",
        "true for a day that is built from minutes, because a provider sent minute bars of it",
    ),
    ("intraday_ohlcv", "open", "NaN: no trade in it counts for prices", "NaN: none of its trades counts for prices"),
    ("intraday_ohlcv", "revision", "log offset of the newest record in it", "seq of the newest record in the bar"),
    (
        "intraday_ohlcv",
        "provider_id",
        "whose own bar it is; 0: built from trades",
        "provider that sent the bar; 0: built from trades",
    ),
    (
        "intraday_ohlcv",
        "vwap_units",
        "volume of the trades that the vwap is made of; -1: unknown",
        "volume of the trades of the vwap; -1: unknown",
    ),
    (
        "intraday_ohlcv",
        "by_minutes",
        "a day that is built from minutes, since a provider gave some of them",
        "true for a day that is built from minutes, because a provider sent minute bars of it",
    ),
    ("historical_ohlcv", "open", "NaN: no trade in it counts for prices", "NaN: none of its trades counts for prices"),
    ("historical_ohlcv", "revision", "log offset of the newest record in it", "seq of the newest record in the bar"),
    (
        "historical_ohlcv",
        "provider_id",
        "whose own bar it is; 0: built from trades",
        "provider that sent the bar; 0: built from trades",
    ),
    (
        "historical_ohlcv",
        "vwap_units",
        "volume of the trades that the vwap is made of; -1: unknown",
        "volume of the trades of the vwap; -1: unknown",
    ),
    (
        "historical_ohlcv",
        "by_minutes",
        "a day that is built from minutes, since a provider gave some of them",
        "true for a day that is built from minutes, because a provider sent minute bars of it",
    ),
    ("time_partitions", "written_at", "to the hour", "time of the last write, to the hour"),
    (
        "intraday_analytics",
        "revision",
        "log offset of the newest record it follows from",
        "seq of the newest record that it follows from",
    ),
    (
        "daily_analytics",
        "revision",
        "log offset of the newest record it follows from",
        "seq of the newest record that it follows from",
    ),
    ("realtime_analytics", "moving_average", "of the last five prices", "mean of the newest five prices"),
    (
        "realtime_analytics",
        "ts",
        "start of the 5-minute bar that is forming, which the rest is about",
        "start of the 5-minute bar of these indicators",
    ),
    (
        "indicator_states",
        "track",
        "which indicators, over which bars",
        "name of the track: a set of indicators of one interval",
    ),
    (
        "indicator_states",
        "definition",
        "of another one the state is of no use",
        "hash of the definition; a state with another hash is not usable",
    ),
    (
        "signals",
        "revision",
        "log offset of the newest record it follows from",
        "seq of the newest record that it follows from",
    ),
    ("dead_letters", "source", "the provider, or the topic, it came from", "provider or topic of the record"),
    (
        "dead_letters",
        "record",
        "the record as it came, cut to 8 KiB",
        "original text of the record, or the record as it was read; cut to 8 KiB",
    ),
    (
        "dead_letters",
        "topic",
        "where it stands, if it came from a topic",
        "topic of the record; null if it was not read from Kafka",
    ),
    ("dead_letters", "retried_at", "when it was sent again", "time of the successful retry"),
    (
        "etl_runs",
        "source",
        "what ran: pipeline, backfill:<provider>, replay, retention",
        "kind of run: pipeline, backfill:<provider>, replay, retention",
    ),
    ("etl_runs", "watermark", "event time up to which it has come", "event time that the run has reached"),
)


def upgrade() -> None:
    """Write the new comments."""
    for table, column, _, comment in COMMENTS:
        _comment(table, column, comment)


def downgrade() -> None:
    """Write the former comments."""
    for table, column, comment, _ in COMMENTS:
        _comment(table, column, comment)


def _comment(table: str, column: str | None, comment: str) -> None:
    place = f"TABLE {table}" if column is None else f"COLUMN {table}.{column}"
    quoted = comment.replace("'", "''")
    op.execute(f"COMMENT ON {place} IS '{quoted}'")
