"""The graceful stop: end of the intake, drain, last flush."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Final

import structlog

from stockpulse.aio.supervisor import State
from stockpulse.node.node import Node
from stockpulse.pipeline.pipeline import Pipeline

_DRAIN_SECONDS: Final = 6.0
_FLOW: Final = ("assign_ids", "append", "step", "flush", "postgres")
"""If a task of one of these stages has failed, the others can never finish."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def drained_at_the_end(node: Node, pipeline: Pipeline) -> AsyncIterator[None]:
    """Store all accepted records when this context ends normally; the tasks themselves keep running."""
    yield
    tasks = node.tasks
    await tasks.stop(list(tasks.of_stage("feed", "jobs")))
    flows = not any(task.state is State.FAILED for task in tasks.of_stage(*_FLOW).values())
    drained = flows and await pipeline.drain(_DRAIN_SECONDS)
    flushes = tasks.of_stage("flush")
    flushed = flows and all(await asyncio.gather(*[tasks.wait(name, _DRAIN_SECONDS) for name in flushes]))
    if drained and flushed:
        log.info("stopped", lag=asdict(pipeline.lag()))
    else:
        log.warning("stopping with work left, the next start does it", lag=asdict(pipeline.lag()))
