"""The connections to providers: their requests per day are counted in the database, their replies kept there."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from stockpulse.aio.supervisor import Supervisor
from stockpulse.pipeline.reply_recorder import ReplyRecorder
from stockpulse.postgres.database import Database
from stockpulse.providers.transport.transport import Transport
from stockpulse.settings import Settings
from stockpulse.storage.quotas import StoredQuotas
from stockpulse.storage.raw_replies import RawReplies

_MEGABYTE: Final = 1_000_000
_COUNTS_KEPT: Final = timedelta(days=7)


@asynccontextmanager
async def open_transport(
    settings: Settings, database: Database, tasks: Supervisor, now: Callable[[], datetime]
) -> AsyncIterator[Transport]:
    """Yield the transport of all providers of the process."""
    quotas = StoredQuotas(database.pool)
    await quotas.forget((now() - _COUNTS_KEPT).date())
    if settings.raw_market_data_mb == 0:
        yield Transport(quotas, now=now)
        return
    recorder = ReplyRecorder(
        RawReplies(database.pool),
        settings.raw_market_data_mb * _MEGABYTE,
        timedelta(days=settings.raw_market_data_days),
        now,
    )
    async with tasks.running("replies", recorder.run):
        yield Transport(quotas, recorder.record, now)
