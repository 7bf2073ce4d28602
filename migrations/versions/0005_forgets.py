"""Forgets: records of the log that take ticks and providers' bars back."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE forgets (
    seq bigint NOT NULL,
    symbol_id integer,
    provider_id integer,
    start_at timestamptz NOT NULL,
    end_at timestamptz NOT NULL,
    received_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT forgets_pkey PRIMARY KEY (seq)
);

COMMENT ON COLUMN forgets.seq IS 'log offset: the records before it are forgotten';

COMMENT ON COLUMN forgets.symbol_id IS 'null: all symbols of the shard; -1: an unknown one';

COMMENT ON COLUMN forgets.provider_id IS 'null: all providers; -1: an unknown one';

COMMENT ON COLUMN forgets.start_at IS 'the first event time that is forgotten';

COMMENT ON COLUMN forgets.end_at IS 'the first event time after those';

COMMENT ON TABLE forgets IS 'which ticks and bars of providers were taken back'
"""

TICKS = """
CREATE OR REPLACE VIEW stock_ticks AS
SELECT t.seq AS id, s.symbol, t.price, t.size AS volume, t.ts AS event_time,
       p.name AS provider, k.exchange, k.conditions, t.trade_id, t.received_at, k.tape
FROM realtime_prices t
JOIN symbols s ON s.id = t.symbol_id
JOIN tick_kinds k ON k.id = t.kind_id
JOIN providers p ON p.id = k.provider_id
"""

KEPT = """
WHERE NOT EXISTS (
    SELECT FROM forgets f
    WHERE f.seq > t.seq AND t.ts >= f.start_at AND t.ts < f.end_at
      AND (f.symbol_id IS NULL OR f.symbol_id = t.symbol_id)
      AND (f.provider_id IS NULL OR f.provider_id = k.provider_id)
)
"""


def upgrade() -> None:
    """Create the table; the view of ticks leaves out forgotten ticks."""
    for statement in UPGRADE.strip().split(";\n\n"):
        op.execute(statement)
    op.execute(TICKS + KEPT)


def downgrade() -> None:
    """Drop the table. Forgotten ticks are shown again; bars do not change."""
    op.execute(TICKS)
    op.execute("DROP TABLE forgets")
