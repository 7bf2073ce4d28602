"""Corrections of trades: records of the log that take one trade back, or replace it by the right one."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE corrections (
    seq bigint NOT NULL,
    symbol_id integer NOT NULL,
    provider_id integer NOT NULL,
    exchange text,
    trade_id text NOT NULL,
    since timestamptz NOT NULL,
    ts timestamptz NOT NULL,
    sent_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    kind_id integer,
    price double precision,
    size double precision,
    new_trade_id text,
    CONSTRAINT corrections_pkey PRIMARY KEY (seq)
);

COMMENT ON COLUMN corrections.seq IS 'number of the record in the log; the right trade has the same in realtime_prices';

COMMENT ON COLUMN corrections.exchange IS 'exchange of the wrong trade; null: any';

COMMENT ON COLUMN corrections.trade_id IS 'id of the wrong trade';

COMMENT ON COLUMN corrections.since IS 'earliest time of the wrong trade; equal to ts if its time is known';

COMMENT ON COLUMN corrections.ts IS 'latest time of the wrong trade, and the time of the right one';

COMMENT ON COLUMN corrections.sent_at IS 'time in the message of the provider';

COMMENT ON COLUMN corrections.kind_id IS 'tick_kinds.id of the right trade; null: the trade is cancelled';

COMMENT ON COLUMN corrections.price IS 'right price; null: the trade is cancelled';

COMMENT ON COLUMN corrections.new_trade_id IS 'id of the right trade; null: it stays';

COMMENT ON TABLE corrections IS 'corrections and cancels of trades';

CREATE TABLE cancelled_ticks (
    seq bigint NOT NULL,
    symbol_id integer NOT NULL,
    ts timestamptz NOT NULL,
    by_seq bigint NOT NULL,
    CONSTRAINT cancelled_ticks_pkey PRIMARY KEY (seq)
);

COMMENT ON COLUMN cancelled_ticks.seq IS 'realtime_prices.seq of the tick';

COMMENT ON COLUMN cancelled_ticks.by_seq IS 'corrections.seq of the record that took it back';

COMMENT ON TABLE cancelled_ticks IS 'ticks that corrections took back';

CREATE INDEX cancelled_ticks_symbol_id_ts_idx ON cancelled_ticks (symbol_id, ts);

CREATE INDEX cancelled_ticks_by_seq_idx ON cancelled_ticks (by_seq)
"""

TICKS = """
CREATE OR REPLACE VIEW stock_ticks AS
SELECT t.seq AS id, s.symbol, t.price, t.size AS volume, t.ts AS event_time,
       p.name AS provider, k.exchange, k.conditions, t.trade_id, t.received_at, k.tape
FROM realtime_prices t
JOIN symbols s ON s.id = t.symbol_id
JOIN tick_kinds k ON k.id = t.kind_id
JOIN providers p ON p.id = k.provider_id
WHERE NOT EXISTS (
    SELECT FROM forgets f
    WHERE f.seq > t.seq AND t.ts >= f.start_at AND t.ts < f.end_at
      AND (f.symbol_id IS NULL OR f.symbol_id = t.symbol_id)
      AND (f.provider_id IS NULL OR f.provider_id = k.provider_id)
)
"""

STANDING = " AND NOT EXISTS (SELECT FROM cancelled_ticks c WHERE c.seq = t.seq)"


def upgrade() -> None:
    """Create the tables; the view of ticks leaves out cancelled ticks."""
    for statement in UPGRADE.strip().split(";\n\n"):
        op.execute(statement)
    op.execute(TICKS + STANDING)


def downgrade() -> None:
    """Drop the tables. Cancelled ticks are shown again; bars do not change."""
    op.execute(TICKS)
    op.execute("DROP TABLE cancelled_ticks")
    op.execute("DROP TABLE corrections")
