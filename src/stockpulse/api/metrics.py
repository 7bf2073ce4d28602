"""The metrics of the pipeline. They are read for each request of /metrics, so they do not slow the pipeline."""

from collections.abc import Iterable, Mapping
from dataclasses import fields

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stockpulse.aio.supervisor import State, Supervisor
from stockpulse.hub.hub import Hub
from stockpulse.pipeline.backfill.backfills import Backfills, Totals
from stockpulse.pipeline.backfill.run import Status
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.storage.feed_gaps import GapState
from stockpulse.telemetry.counters import Counters, Lag


class PipelineCollector(Collector):
    """Counters, lags and the state of the background tasks."""

    def __init__(self, pipeline: Pipeline, supervisor: Supervisor) -> None:
        self._pipeline = pipeline
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics."""
        for field in fields(Counters):
            value = float(getattr(self._pipeline.counters, field.name))
            yield CounterMetricFamily(f"stockpulse_{field.name}", f"{field.name} since the start", value=value)
        lag = GaugeMetricFamily(
            "stockpulse_lag_rows",
            "Rows that wait for a stage; for stage behind, symbols whose indicators have to catch up",
            labels=["stage"],
        )
        for stage in fields(Lag):
            lag.add_metric([stage.name], getattr(self._pipeline.lag(), stage.name))
        yield lag
        of_shards = GaugeMetricFamily(
            "stockpulse_shard_lag_rows", "Rows of a shard that wait for a stage", labels=["shard", "stage"]
        )
        for number, processor in self._pipeline.shards.processors.items():
            for name, rows in zip(("step", "flush"), processor.lag(), strict=False):
                of_shards.add_metric([str(number), name], rows)
        yield of_shards
        up = GaugeMetricFamily("stockpulse_task_up", "1 while a background task works", labels=["task"])
        for name, health in self._supervisor.health.items():
            up.add_metric([name], float(health.state in {State.RUNNING, State.DONE}))
        yield up


class FeedCollector(Collector):
    """The state of the live feeds."""

    def __init__(self, feeds: Mapping[str, FeedState]) -> None:
        self._feeds = feeds

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics."""
        messages = CounterMetricFamily(
            "stockpulse_feed_messages", "Ticks, bars and corrections that a provider has sent", labels=["provider"]
        )
        reconnects = CounterMetricFamily("stockpulse_feed_reconnects", "Interruptions of a feed", labels=["provider"])
        up = GaugeMetricFamily("stockpulse_feed_up", "0 while a feed waits or is refused", labels=["provider"])
        newest = GaugeMetricFamily(
            "stockpulse_feed_last_message_seconds", "Time of the newest message, since 1970", labels=["provider"]
        )
        gaps = GaugeMetricFamily("stockpulse_feed_gaps", "Gaps of a feed in a state", labels=["provider", "state"])
        for provider, feed in self._feeds.items():
            for state in GapState:
                gaps.add_metric([provider, state.value], feed.gaps.get(state.value, 0))
            messages.add_metric([provider], feed.messages)
            reconnects.add_metric([provider], feed.reconnects)
            up.add_metric([provider], float(feed.works))
            if feed.last_message_at is not None:
                newest.add_metric([provider], feed.last_message_at.timestamp())
        yield from (messages, reconnects, up, newest, gaps)


class StreamCollector(Collector):
    """The live subscribers, and what they are sent."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics."""
        hub, totals = self._hub, self._hub.totals()
        yield GaugeMetricFamily("stockpulse_stream_clients", "Clients of the stream", value=len(hub.subscribers))
        yield GaugeMetricFamily("stockpulse_stream_topics", "Topics that are read", value=hub.topics())
        yield GaugeMetricFamily(
            "stockpulse_stream_lag_seconds", "Time since the buffer of the slowest client was empty", value=hub.lag()
        )
        for name, help_text, value in (
            ("published_rows", "Rows that were published to a topic", hub.published),
            ("unpublished_rows", "Rows that were not published, because too many events waited", hub.unpublished),
            ("messages", "Messages sent to clients", totals.messages),
            ("bytes", "Bytes sent to clients", totals.bytes),
            ("conflated_rows", "Rows replaced by newer ones before a slow client took them", totals.conflated),
            ("missed_rows", "Rows that slow clients missed", totals.missed),
            ("slow_clients", "Clients closed because they were slow", totals.slow),
        ):
            yield CounterMetricFamily(f"stockpulse_stream_{name}", help_text, value=float(value))


class BackfillCollector(Collector):
    """The progress of backfills."""

    def __init__(self, backfills: Backfills) -> None:
        self._backfills = backfills

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics."""
        totals = self._backfills.totals()
        for field in fields(Totals):
            value = float(getattr(totals, field.name))
            yield CounterMetricFamily(
                f"stockpulse_backfill_{field.name}", f"{field.name} of backfills since the start", value=value
            )
        running = self._backfills.running()
        for name, bars in (("expected", "missing bars"), ("done", "bars that are answered or refused")):
            value = float(sum(getattr(run, name) for run in running))
            yield GaugeMetricFamily(f"stockpulse_backfill_{name}_bars", f"{bars} of running backfills", value=value)
        states = GaugeMetricFamily("stockpulse_backfills", "Backfills that have not ended", labels=["status"])
        for status in (Status.RUNNING, Status.WAITING):
            states.add_metric([status.value], sum(run.status is status for run in running))
        yield states
