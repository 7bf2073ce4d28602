"""Logs of several shards: the first seq of each, segments of any length, dead letters with their place."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE = """
UPDATE log_segments SET id = id << 22;

ALTER TABLE log_segments ADD COLUMN end_seq bigint;

UPDATE log_segments SET end_seq = id + (1 << 22);

ALTER TABLE log_segments ALTER COLUMN end_seq SET NOT NULL;

ALTER TABLE checkpoints ADD COLUMN first_seq bigint NOT NULL DEFAULT 0;

CREATE TABLE left_logs (
    journal text NOT NULL,
    shard integer NOT NULL,
    journal_offset bigint NOT NULL,
    left_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT left_logs_pkey PRIMARY KEY (journal, shard)
);

ALTER TABLE dead_letters ADD COLUMN topic text;

ALTER TABLE dead_letters ADD COLUMN topic_partition integer;

ALTER TABLE dead_letters ADD COLUMN topic_offset bigint;

ALTER TABLE dead_letters ADD COLUMN retried_at timestamptz;

COMMENT ON COLUMN log_segments.id IS 'first offset';

COMMENT ON COLUMN log_segments.end_seq IS 'first offset after it';

COMMENT ON COLUMN checkpoints.first_seq IS 'what the offsets of its log are counted from';

COMMENT ON COLUMN left_logs.journal_offset IS 'up to where it was worked in, as the log itself counts';

COMMENT ON COLUMN dead_letters.topic IS 'where it stands, if it came from a topic';

COMMENT ON COLUMN dead_letters.retried_at IS 'when it was sent again'
"""


def upgrade() -> None:
    """Identify segments by their first offset, and create the rest."""
    for statement in UPGRADE.split(";\n\n"):
        op.execute(statement)


def downgrade() -> None:
    """Return to segments of 2^22 offsets; fails on a database that has had a log on Kafka."""
    op.execute("ALTER TABLE dead_letters DROP COLUMN topic, DROP COLUMN topic_partition")
    op.execute("ALTER TABLE dead_letters DROP COLUMN topic_offset, DROP COLUMN retried_at")
    op.execute("DROP TABLE left_logs")
    op.execute("ALTER TABLE checkpoints DROP COLUMN first_seq")
    op.execute("ALTER TABLE log_segments DROP COLUMN end_seq")
    op.execute("UPDATE log_segments SET id = id >> 22")
    op.execute("COMMENT ON COLUMN log_segments.id IS 'first offset / 2^22'")
