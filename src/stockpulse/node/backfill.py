"""The backfill of the configured feeds, beside their live ticks."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from stockpulse.market.intervals import D1, M1, M5
from stockpulse.node.node import Node
from stockpulse.pipeline.backfill.backfills import Backfills, Group
from stockpulse.pipeline.backfill.filler import Filler
from stockpulse.pipeline.backfill.planner import Planner
from stockpulse.pipeline.backfill.targets import Target
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.sources import Source
from stockpulse.settings import Settings
from stockpulse.storage.asked_ranges import AskedRanges
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.run_log import RunLog


def build_backfills(node: Node, pipeline: Pipeline, bars: BarReader) -> Backfills:
    """Return the backfills of this process, none running."""
    pool, now = node.database.pool, node.timing.now
    asked = AskedRanges(pool)
    filler = Filler(Planner(bars, node.database.names, asked, now), pipeline.intake, asked, now)
    return Backfills(filler, asked, RunLog(pool), pipeline, now)


def start_backfill(node: Node, backfills: Backfills) -> None:
    """Start the tasks that keep the history of the feeds filled: one for the symbols of the same providers."""
    node.tasks.start("backfill", backfills.prepare, stage="feed")
    symbols: dict[tuple[Source, ...], list[str]] = defaultdict(list)
    for symbol in dict.fromkeys(symbol for feed in node.sources.feeds for symbol in feed.symbols):
        symbols[tuple(one for one in node.sources.order_for(symbol) if one.has.history)].append(symbol)
    for sources, filled in symbols.items():
        if sources:
            group = Group(tuple(filled), sources)
            run = partial(backfills.keep_filled, targets_of(node.settings, sources), group)
            node.tasks.start(f"backfill:{'+'.join(one.name for one in sources)}", run, stage="feed")


def targets_of(settings: Settings, sources: Sequence[Source]) -> list[Target]:
    """Return the bars to have by the settings. The running day is made of its minutes, if a provider has them."""
    has_minutes = settings.backfill_1m_days > 0 and any(M1.name in one.has.history for one in sources)
    targets = (
        Target(D1, settings.backfill_daily_days),
        Target(M1, settings.backfill_1m_days),
        Target(M5, settings.backfill_5m_days, before_today=has_minutes),
    )
    return [target for target in targets if target.days]
