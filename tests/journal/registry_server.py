"""A schema registry over HTTP in this process, with the requests that Confluent's client and serializers send."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# The further types that each type can be read as: the promotions of Avro's specification.
PROMOTIONS = {"int": {"long", "float", "double"}, "long": {"float", "double"}, "float": {"double"}}


@dataclass
class RegistryServer:
    """The registered schemas, the accepted credentials, and the requests so far."""

    url: str = ""
    user: str | None = None  # "key:secret"
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    #: Answer every request with this status, as a registry does that is ill; with such a body.
    failing: int | None = None
    failing_body: bytes = b'{"error_code": 50001, "message": "out of order"}'
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, schema: Any, subject: str = "other", kind: str = "AVRO") -> int:
        """Register a schema without any check."""
        with self.lock:
            return self._add(subject, schema if isinstance(schema, str) else json.dumps(schema), kind)

    def _add(self, subject: str, text: str, kind: str = "AVRO") -> int:
        same = (number for number, known in self.schemas.items() if _same(known["schema"], text))
        number = next(same, len(self.schemas) + 1)
        self.schemas.setdefault(number, {"schema": text, "schemaType": kind})
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            match method, [unquote(step) for step in urlsplit(path).path.strip("/").split("/")]:
                case "POST", ["subjects", subject, "versions"]:
                    return self._register(subject, body["schema"])
                case "POST", ["subjects", subject]:
                    return self._look_up(subject, body["schema"])
                case "GET", ["schemas", "ids", number] if number.isdigit():
                    known = self.schemas.get(int(number))
                    return (200, known) if known else (404, {"error_code": 40403, "message": "Schema not found"})
                case "GET", ["subjects", subject, "versions", "latest"]:
                    if subject not in self.subjects:
                        return 404, {"error_code": 40401, "message": "Subject not found"}
                    return 200, self._version(subject, self.subjects[subject][-1])
            return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _register(self, subject: str, text: str) -> tuple[int, dict[str, Any]]:
        new = json.loads(text)
        versions = self.subjects.get(subject, [])
        if versions and (why := unreadable(json.loads(self.schemas[versions[-1]]["schema"]), new)):
            message = f"Schema being registered is incompatible with an earlier schema for subject {subject!r}: {why}"
            return 409, {"error_code": 409, "message": message}
        return 200, {"id": self._add(subject, text)}

    def _look_up(self, subject: str, text: str) -> tuple[int, dict[str, Any]]:
        for number in self.subjects.get(subject, []):
            if _same(self.schemas[number]["schema"], text):
                return 200, self._version(subject, number)
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def _version(self, subject: str, number: int) -> dict[str, Any]:
        version = self.subjects[subject].index(number) + 1
        return {"subject": subject, "id": number, "version": version, **self.schemas[number]}


def _same(one: str, other: str) -> bool:
    """Normalise a schema: white space does not matter."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return one == other


def unreadable(writer: Any, reader: Any) -> str | None:
    """Return the reason why flat records of one schema cannot be read with the other (compatibility BACKWARD)."""
    written = {one["name"]: one["type"] for one in writer["fields"]}
    for one in reader["fields"]:
        names = {one["name"], *one.get("aliases", [])} & written.keys()
        if not names and "default" not in one:
            return f"{one['name']} is new and has no default"
        if names and not _fits(written[names.pop()], one["type"]):
            return f"{one['name']} has another type"
    return None


def _fits(written: Any, read: Any) -> bool:
    branches = read if isinstance(read, list) else [read]
    for one in written if isinstance(written, list) else [written]:
        bare = one["type"] if isinstance(one, dict) else one
        known = {branch["type"] if isinstance(branch, dict) else branch for branch in branches}
        if not known & {bare, *PROMOTIONS.get(bare, set())}:
            return False
    return True


@contextmanager
def serving(user: str | None = None) -> Iterator[RegistryServer]:
    """Run a registry on its own port for the length of the block."""
    registry = RegistryServer(user=user)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond("GET", {})

        def do_POST(self) -> None:
            self._respond("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _respond(self, method: str, body: dict[str, Any]) -> None:
            registry.requests.append(f"{method} {self.path}")
            if registry.failing is not None:
                self._send(registry.failing, registry.failing_body)
            elif not self._allowed():
                self._send(401, b'{"error_code": 40101, "message": "Unauthorized"}')
            else:
                status, answer = registry.answer(method, self.path, body)
                self._send(status, json.dumps(answer).encode())

        def _allowed(self) -> bool:
            expected = None if registry.user is None else "Basic " + base64.b64encode(registry.user.encode()).decode()
            return expected is None or self.headers["Authorization"] == expected

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
