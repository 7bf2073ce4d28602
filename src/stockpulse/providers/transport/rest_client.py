"""Requests to a provider's REST API: one place for retries, rate limits, time-outs, body limits and redaction."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx2
import orjson

from stockpulse.errors import shown
from stockpulse.providers.faults import BadReply, ProviderFault, QuotaUsedUp, RateLimited, Unreachable
from stockpulse.providers.transport.rate_limit import RateLimit
from stockpulse.providers.transport.redaction import Redactor

ATTEMPTS: Final = 4
FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 90.0
"""A request waits at most this long for the provider's limit; then the caller gets RateLimited."""
MAX_BODY_BYTES: Final = 32_000_000
TIMEOUT: Final = httpx2.Timeout(20.0, connect=8.0)


@dataclass(frozen=True)
class Reply:
    """A reply of a provider, without keys."""

    provider: str
    path: str
    params: Mapping[str, str]
    """The parameters of the request, without the key."""
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    received_at: datetime

    def json(self) -> Any:
        """Return the parsed body. Raises BadReply if it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise BadReply(f"{self.provider}: the reply of {self.path} is no JSON: {self.text}") from None

    @property
    def text(self) -> str:
        """The beginning of the body, for messages."""
        return shown(self.body[:400].decode(errors="replace"))


@dataclass(frozen=True)
class Dialect:
    """The way in which one provider is spoken to."""

    base_url: str
    read_fault: Callable[[Reply], ProviderFault | None]
    """Return the fault that a reply states; None for a good reply."""
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters of each request, such as the key."""
    pause_seconds: Callable[[Reply], float] = lambda _reply: 0.0
    """Return the seconds to hold requests back after a reply, by its headers."""
    attempts: int = ATTEMPTS
    """The most attempts of a request; each counts for the limits."""


class RestClient:
    """Sends requests to one provider, within its limits."""

    def __init__(
        self,
        provider: str,
        dialect: Dialect,
        limit: RateLimit,
        redactor: Redactor,
        *,
        on_reply: Callable[[Reply, str], None] = lambda _reply, _outcome: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`on_reply` gets each reply with its outcome: "ok" or the code of its fault."""
        self._provider = provider
        self._dialect = dialect
        self.limit = limit
        self._redactor = redactor
        self._on_reply = on_reply
        self._sleep = sleep
        self._now = now
        self._http: httpx2.AsyncClient | None = None

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, *, cost: int = 1, urgent: bool = False
    ) -> Reply:
        """Return a good reply.

        Transient faults are tried again, a few times with growing delays. Urgent requests go before others and are
        for a user who waits. Raises ProviderFault.
        """
        for attempt in range(1, self._dialect.attempts + 1):
            try:
                return await self._try(path, params or {}, cost, urgent=urgent)
            except QuotaUsedUp:
                raise
            except (RateLimited, Unreachable) as fault:
                if attempt == self._dialect.attempts or self.limit.paused_seconds > LONGEST_WAIT_SECONDS:
                    raise
                delay = FIRST_DELAY_SECONDS * 2 ** (attempt - 1)
                if isinstance(fault, RateLimited) and not self.limit.paused_seconds:
                    self.limit.pause(4 * delay)
                await self._sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _try(self, path: str, params: Mapping[str, str], cost: int, *, urgent: bool) -> Reply:
        if (pause := self.limit.paused_seconds) > LONGEST_WAIT_SECONDS:
            until = self._now() + timedelta(seconds=pause)
            raise RateLimited(f"{self._provider} gets no requests until {until.isoformat()}: it had too many", until)
        await self.limit.acquire(cost, urgent=urgent)
        reply = await self._send(path, params)
        fault = self._dialect.read_fault(reply)
        self._on_reply(reply, "ok" if fault is None else fault.code)
        pause = self._dialect.pause_seconds(reply)
        if isinstance(fault, RateLimited) and fault.until is not None:
            pause = max(pause, (fault.until - self._now()).total_seconds())
        if pause > 0 and not isinstance(fault, QuotaUsedUp):
            self.limit.pause(pause)
        if isinstance(fault, QuotaUsedUp) and self.limit.quota is not None:
            raise await self.limit.quota.exhaust()
        if fault is not None:
            raise fault
        return reply

    async def _send(self, path: str, params: Mapping[str, str]) -> Reply:
        if self._http is None:
            self._http = httpx2.AsyncClient(base_url=self._dialect.base_url, timeout=TIMEOUT, follow_redirects=False)
        query = {**params, **self._dialect.params}
        try:
            async with self._http.stream("GET", path, params=query, headers=dict(self._dialect.headers)) as answer:
                body = await self._body(answer, path)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            detail = self._redactor.clean(str(error)) or type(error).__name__
            raise Unreachable(f"{self._provider} does not answer {path}: {detail}") from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(self._provider, path, dict(params), answer.status_code, headers, body, self._now())

    async def _body(self, answer: httpx2.Response, path: str) -> bytes:
        body = bytearray()
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise BadReply(f"{self._provider}: the reply of {path} has more than {MAX_BODY_BYTES} bytes")
        return self._redactor.clean(body.decode(errors="surrogateescape")).encode(errors="surrogateescape")
