"""The engine and the sink with bars alone: no indicators, no rules."""

from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.indicators import AnalyticsChanges
from stockpulse.engine.signals import Rules
from stockpulse.storage.analytics_writer import AnalyticsWriter
from stockpulse.storage.sink import Flush, Sink


def none_to_run(loop):
    raise AssertionError("nothing to calculate")


def run_step(step, load):
    """Run a step of an engine to its end; `load` returns the stored bars of a range."""
    rows = None
    while True:
        try:
            wanted = step.send(rows)
        except StopIteration as done:
            return done.value
        rows = load(wanted)


def spec_of(instances=(), rules=(), **options):
    """An engine with these indicators and rules; by default it builds bars alone."""
    return EngineSpec(stored=tuple(instances), rules=Rules(list(rules)), **options)


def written(dsn, partitions, shard, journal):
    """A sink for bars alone."""
    return Sink(dsn, partitions, AnalyticsWriter(spec_of().tracks, []), shard, journal)


def flush_of(changes, whole=None):
    """A flush of bars alone; with `whole`, the state is that."""
    state = changes.state if whole is None else whole
    return Flush(changes.offset, changes.bars, AnalyticsChanges({}, None, {}), None, state, whole is not None)
