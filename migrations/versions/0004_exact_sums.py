"""Exact sums with more digits, the vwap's own volume, days that follow their minutes, the tape of a tick."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BARS = ("bars_1m", "intraday_ohlcv", "historical_ohlcv")

DROP_VIEWS = ("DROP VIEW stock_bars_1m", "DROP VIEW bars")

# The notional becomes a number of the unit 2^-100, written in three digits to the base 2^62.
UPGRADE = """
ALTER TABLE {table}
    ADD COLUMN volume_picos bigint NOT NULL DEFAULT 0,
    ADD COLUMN vwap_units bigint NOT NULL DEFAULT 0,
    ADD COLUMN vwap_picos bigint NOT NULL DEFAULT 0,
    ADD COLUMN notional_high bigint NOT NULL DEFAULT 0,
    ADD COLUMN notional_middle bigint NOT NULL DEFAULT 0,
    ADD COLUMN notional_low bigint NOT NULL DEFAULT 0,
    ADD COLUMN by_minutes boolean NOT NULL DEFAULT false;

UPDATE {table} SET
    volume_picos = volume_nanos::bigint * 1000,
    vwap_units = CASE WHEN notional_units < 0 THEN -1 ELSE volume_units END,
    vwap_picos = CASE WHEN notional_units < 0 THEN 0 ELSE volume_nanos::bigint * 1000 END,
    notional_high = CASE WHEN notional_units < 0 THEN -1 ELSE div(
        div((notional_units::numeric * 1000000000 + notional_nanos) * 1267650600228229401496703205376, 1000000000),
        21267647932558653966460912964485513216)::bigint END,
    notional_middle = CASE WHEN notional_units < 0 THEN 0 ELSE mod(div(
        div((notional_units::numeric * 1000000000 + notional_nanos) * 1267650600228229401496703205376, 1000000000),
        4611686018427387904), 4611686018427387904)::bigint END,
    notional_low = CASE WHEN notional_units < 0 THEN 0 ELSE mod(
        div((notional_units::numeric * 1000000000 + notional_nanos) * 1267650600228229401496703205376, 1000000000),
        4611686018427387904)::bigint END;

ALTER TABLE {table}
    DROP COLUMN volume_nanos,
    DROP COLUMN notional_units,
    DROP COLUMN notional_nanos;

COMMENT ON COLUMN {table}.volume_picos IS 'trillionths of a unit';

COMMENT ON COLUMN {table}.vwap_units IS 'volume of the trades that the vwap is made of; -1: unknown';

COMMENT ON COLUMN {table}.notional_high IS 'sum of price x size of these trades; -1: unknown';

COMMENT ON COLUMN {table}.by_minutes IS 'a day that is built from minutes, since a provider gave some of them'
"""

DOWNGRADE = """
ALTER TABLE {table}
    ADD COLUMN volume_nanos integer,
    ADD COLUMN notional_units bigint,
    ADD COLUMN notional_nanos integer;

UPDATE {table} SET
    volume_nanos = volume_picos / 1000,
    notional_units = CASE WHEN notional_high < 0 THEN -1 ELSE div(
        (notional_high::numeric * 4611686018427387904 + notional_middle) * 4611686018427387904 + notional_low,
        1267650600228229401496703205376)::bigint END,
    notional_nanos = CASE WHEN notional_high < 0 THEN 0 ELSE div(mod(
        (notional_high::numeric * 4611686018427387904 + notional_middle) * 4611686018427387904 + notional_low,
        1267650600228229401496703205376) * 1000000000, 1267650600228229401496703205376)::integer END;

ALTER TABLE {table}
    ALTER COLUMN volume_nanos SET NOT NULL,
    ALTER COLUMN notional_units SET NOT NULL,
    ALTER COLUMN notional_nanos SET NOT NULL,
    DROP COLUMN volume_picos,
    DROP COLUMN vwap_units,
    DROP COLUMN vwap_picos,
    DROP COLUMN notional_high,
    DROP COLUMN notional_middle,
    DROP COLUMN notional_low,
    DROP COLUMN by_minutes;

COMMENT ON COLUMN {table}.notional_units IS 'sum of price x size; -1: unknown'
"""

NEW_FUNCTION = """
CREATE FUNCTION exact(units bigint, picos bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN units >= 0 THEN units + picos / 1e12::double precision END
"""

OLD_FUNCTION = """
CREATE FUNCTION exact(units bigint, nanos integer) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN units >= 0 THEN units + nanos / 1e9::double precision END
"""

# A mean of prices lies between them, but for rounding; a provider's own vwap is shown as it was given.
NEW_VWAP = """
CASE WHEN b.notional_high >= 0 THEN
    CASE WHEN b.provider_id = 0 AND v.mean IS NOT NULL THEN greatest(b.low, least(b.high, v.mean)) ELSE v.mean END
END"""

BARS_VIEW = """
CREATE VIEW bars AS
SELECT s.symbol, b.interval, b.ts, b.open, b.high, b.low, b.close,
       exact(b.volume_units, b.{fraction}) AS volume,
       nullif(b.trade_count, -1) AS trade_count,
       {vwap} AS vwap,
       b.revision, coalesce(p.name, 'trades') AS source
FROM (SELECT '1m' AS interval, * FROM bars_1m
      UNION ALL SELECT '5m', * FROM intraday_ohlcv
      UNION ALL SELECT '1d', * FROM historical_ohlcv) b
{mean}JOIN symbols s ON s.id = b.symbol_id
LEFT JOIN providers p ON p.id = b.provider_id
WHERE b.open <> 'NaN'
"""

MEAN = """CROSS JOIN LATERAL (
    SELECT (b.notional_high * 16777216::double precision
            + (b.notional_middle / 274877906944::double precision
               + b.notional_low / 1267650600228229401496703205376::double precision))
           / nullif(exact(b.vwap_units, b.vwap_picos), 0) AS mean) v
"""

OLD_VWAP = "exact(b.notional_units, b.notional_nanos) / nullif(exact(b.volume_units, b.volume_nanos), 0)"

MINUTES_VIEW = """
CREATE VIEW stock_bars_1m AS
SELECT symbol, ts AS bucket_start, open, high, low, close, volume AS volume_sum, trade_count AS tick_count
FROM bars WHERE interval = '1m'
"""

TICKS_VIEW = """
CREATE OR REPLACE VIEW stock_ticks AS
SELECT t.seq AS id, s.symbol, t.price, t.size AS volume, t.ts AS event_time,
       p.name AS provider, k.exchange, k.conditions, t.trade_id, t.received_at{tape}
FROM realtime_prices t
JOIN symbols s ON s.id = t.symbol_id
JOIN tick_kinds k ON k.id = t.kind_id
JOIN providers p ON p.id = k.provider_id
"""

POINTS_VIEW = """
CREATE VIEW price_points AS
SELECT id, symbol, price, provider, event_time AS timestamp, received_at AS created_at FROM stock_ticks
"""

OLD_KEY = "tick_kinds_provider_id_exchange_conditions_flags_key"
NEW_KEY = "tick_kinds_provider_id_exchange_tape_conditions_flags_key"


def run(*statements: str) -> None:
    """Run one statement after the other."""
    for statement in statements:
        op.execute(statement)


def upgrade() -> None:
    """Convert the sums of all stored bars; no digit is lost."""
    run(*DROP_VIEWS, "DROP FUNCTION exact")
    for table in BARS:
        run(*UPGRADE.format(table=table).split(";\n\n"))
    run(NEW_FUNCTION, BARS_VIEW.format(fraction="volume_picos", vwap=NEW_VWAP, mean=MEAN), MINUTES_VIEW)
    run(
        "ALTER TABLE tick_kinds ADD COLUMN tape text NOT NULL DEFAULT ''",
        f"ALTER TABLE tick_kinds DROP CONSTRAINT {OLD_KEY}",
        f"ALTER TABLE tick_kinds ADD CONSTRAINT {NEW_KEY} UNIQUE (provider_id, exchange, tape, conditions, flags)",
        "COMMENT ON COLUMN tick_kinds.tape IS 'the consolidated tape, A to C, N or O; '''': not said'",
        "COMMENT ON COLUMN tick_kinds.flags IS 'what a tick counts for: see market/schemas.py'",
        TICKS_VIEW.format(tape=", k.tape"),
    )


def downgrade() -> None:
    """Return to sums of billionths; smaller digits are cut off. Fails if kinds of ticks differ only in their tape."""
    run("DROP VIEW price_points", "DROP VIEW stock_ticks", TICKS_VIEW.format(tape=""), POINTS_VIEW)
    run(
        f"ALTER TABLE tick_kinds DROP CONSTRAINT {NEW_KEY}",
        "ALTER TABLE tick_kinds DROP COLUMN tape",
        f"ALTER TABLE tick_kinds ADD CONSTRAINT {OLD_KEY} UNIQUE (provider_id, exchange, conditions, flags)",
        "COMMENT ON COLUMN tick_kinds.flags IS '1: counts for prices, 2: for volume, 4: first feed'",
    )
    run(*DROP_VIEWS, "DROP FUNCTION exact")
    for table in BARS:
        run(*DOWNGRADE.format(table=table).split(";\n\n"))
    run(OLD_FUNCTION, BARS_VIEW.format(fraction="volume_nanos", vwap=OLD_VWAP, mean=""), MINUTES_VIEW)
