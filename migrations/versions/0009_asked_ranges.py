"""The ranges of bars that providers were asked for."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """
        CREATE TABLE asked_ranges (
            provider text NOT NULL,
            minutes integer NOT NULL,
            symbol text NOT NULL,
            starts_at timestamptz NOT NULL,
            ends_at timestamptz NOT NULL,
            outcome text NOT NULL,
            asked_at timestamptz NOT NULL,
            reason text,
            PRIMARY KEY (provider, minutes, symbol, starts_at)
        )
        """
    )
    op.execute("COMMENT ON COLUMN asked_ranges.minutes IS 'length of the bars: 1, 5 or 1440 for a day'")
    op.execute("COMMENT ON COLUMN asked_ranges.outcome IS 'complete, nothing there, or refused'")
    op.execute("COMMENT ON COLUMN asked_ranges.reason IS 'reason of a refusal'")


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE asked_ranges")
