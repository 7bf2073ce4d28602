"""Dead letters that stand for further records, which are only counted."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_RECORD = "original text of the record, or the record as it was read; "
_COUNT = "number of rejected records that this one stands for; above 1, the others were only counted"


def upgrade() -> None:
    """Add the number of records."""
    op.execute("ALTER TABLE dead_letters ADD COLUMN count bigint NOT NULL DEFAULT 1")
    op.execute(f"COMMENT ON COLUMN dead_letters.count IS '{_COUNT}'")
    op.execute(f"COMMENT ON COLUMN dead_letters.record IS '{_RECORD}cut texts end with …(cut)'")


def downgrade() -> None:
    """Drop the number: the further records are not known any more."""
    op.execute("ALTER TABLE dead_letters DROP COLUMN count")
    op.execute(f"COMMENT ON COLUMN dead_letters.record IS '{_RECORD}cut to 8 KiB'")
