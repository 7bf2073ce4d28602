"""A client of the stream that keeps the highest revision of each bar, and resumes."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import msgpack
import websockets
from websockets.asyncio.client import connect

SECONDS = 6


class Client:
    """A connection, its messages in order, and the ones of each kind."""

    def __init__(self, socket, format):
        self.socket = socket
        self.format = format
        self.messages = []
        self.unread = []

    async def send(self, **request):
        await self.socket.send(json.dumps(request) if self.format == "json" else msgpack.packb(request, datetime=True))

    async def frame(self):
        """Read one frame; return its messages."""
        data = await asyncio.wait_for(self.socket.recv(), SECONDS)
        found = json.loads(data) if self.format == "json" else msgpack.unpackb(data, timestamp=3)
        self.messages += found
        self.unread += found
        return found

    async def next(self, **wanted):
        """Return the next message with these fields; messages of other kinds stay for later calls."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for place, message in enumerate(self.unread):
                if wanted.items() <= message.items():
                    return self.unread.pop(place)
            await self.frame()
        raise AssertionError(f"no message with {wanted} among {self.messages}")

    async def ask(self, **request):
        """Send a request, return the answer to it."""
        number = len(self.messages) + 1
        await self.send(id=number, **request)
        return await self.next(id=number)

    async def subscribe(self, channel, **fields):
        answer = await self.ask(action="subscribe", channel=channel, **fields)
        assert answer["type"] == "subscribed", answer
        return answer


@asynccontextmanager
async def stream(port, *, format="json", path="/api/v1/stream", **options):
    """Connect, and read the welcome."""
    address = f"ws://127.0.0.1:{port}{path}" + ("?format=msgpack" if format == "msgpack" else "")
    async with connect(address, compression=None, max_size=None, **options) as socket:
        client = Client(socket, format)
        client.welcome = await client.next(type="welcome")
        yield client


class Bars:
    """The bars of a client, through any number of connections."""

    def __init__(self, symbols, interval, **fields):
        self.request = {"symbols": symbols, "interval": interval, "forming": True} | fields
        self.bars = {}
        self.place = None
        self.resumed = []
        self.missed = 0
        self.complete = False
        """True once the snapshot of the newest connection, if it has one, has come."""
        self._next_place = None

    def take(self, message):
        if message["type"] == "pong":
            self._snapshot_is_over()
        if message["type"] == "missed":
            self.missed += message["rows"]
        if message["type"] != "data" or message["channel"] != "bars":
            return
        for row in message["rows"]:
            key = row["symbol"], row["ts"]
            known = self.bars.get(key)
            version = row["revision"], row["final"]
            if known is None or (known["revision"], known["final"]) <= version:
                self.bars[key] = row | {"removed": message["change"] == "removed"}
        if "seq" in message:
            self._snapshot_is_over()
            self.place["seq"] = message["seq"]

    def _snapshot_is_over(self):
        """Resume from this connection from now on; who leaves before lacks rows of the snapshot."""
        self.complete = True
        if self._next_place is not None:
            self.place, self._next_place = self._next_place, None

    async def follow(self, port, until, start):
        """Read until `until` says so; begin where the last connection ended, or with a snapshot from `start`."""
        self.complete, self._next_place = False, None
        fields = dict(self.request, start=start)
        if self.place is not None:
            fields["resume"] = dict(self.place)
        try:
            async with stream(port) as client:
                answer = await client.subscribe("bars", **fields)
                self.resumed.append(bool(answer.get("resumed")))
                if not answer.get("resumed"):
                    self._next_place = {"stream": answer["stream"], "seq": answer["seq"]}
                await client.send(action="ping")  # its pong comes after the snapshot
                for message in client.unread:
                    self.take(message)
                while not until():
                    try:
                        async with asyncio.timeout(0.1):
                            data = await client.socket.recv()
                    except TimeoutError:
                        continue
                    for message in json.loads(data):
                        self.take(message)
        except (OSError, websockets.WebSocketException):
            return

    def kept(self):
        """The bars by symbol and time, as the API has them."""
        shown = {}
        for key, row in self.bars.items():
            if not row["removed"]:
                shown[key] = {name: value for name, value in row.items() if name != "removed"}
        return shown


def of_api(answer):
    """The bars of `/data` in the form of `Bars.kept`."""
    rows = [{name: row[name] for name in row if name not in ("interval", "filled")} for row in answer["bars"]]
    return {(row["symbol"], row["ts"]): row for row in rows}
