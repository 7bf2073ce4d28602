"""The engine and the sink with bars alone: no indicators, no rules."""

from stockpulse.engine.indicators import Analytics, AnalyticsChanges
from stockpulse.engine.signals import Rules
from stockpulse.market.intervals import M1
from stockpulse.storage.analytics_writer import AnalyticsWriter
from stockpulse.storage.sink import Flush, Sink


def none_to_run(loop):
    raise AssertionError("nothing to calculate")


def analytics_of(instances=(), rules=(), shard=None):
    """What is calculated beside the bars; nothing by default."""
    sessions = (lambda symbol_id, ts: ts) if shard is None else shard.dates
    return Analytics(instances, Rules(list(rules)), M1, sessions)


def written(dsn, partitions, shard, journal):
    """A sink for bars alone."""
    return Sink(dsn, partitions, AnalyticsWriter(analytics_of(), []), shard, journal)


def flush_of(changes, whole=None):
    """A flush of bars alone; with `whole`, the state is that."""
    state = changes.state if whole is None else whole
    return Flush(changes.offset, changes.bars, AnalyticsChanges({}, None, {}), None, state, whole is not None)
