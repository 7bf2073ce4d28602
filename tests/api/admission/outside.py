"""Run in a separate network namespace: start the app on all addresses, send requests, print the answers."""

import json
import sys
from pathlib import Path

import httpx2

from app_process import AppProcess

TICK = {"symbol": "OUTSIDE", "ts": "2026-03-02T14:30:00Z", "price": 1, "size": 1}
OPEN = ("--host", "0.0.0.0", "--forwarded-allow-ips", "*")


def asked(url: str, **headers: str) -> list[int]:
    """Return the statuses of reading and of sending a tick."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    read = httpx2.get(f"{url}/symbols", headers=given)
    return [read.status_code, httpx2.post(f"{url}/ticks", headers=given, json=[TICK]).status_code]


def main(folder: Path, outside: str, cache_dir: str) -> None:
    answers = {}
    with AppProcess(folder / "alone", *OPEN, cache_dir=cache_dir) as app:
        there = f"http://{outside}:{app.port}"
        answers["loopback"] = asked(app.url)
        answers["outside"] = asked(there)
        answers["outside as localhost"] = asked(there, host="localhost")
        answers["outside that pretends"] = asked(there, host="localhost", x_forwarded_for="127.0.0.1")
        answers["a proxy for outside"] = asked(app.url, x_forwarded_for=f"127.0.0.1, {outside}")
        answers["said"] = "answers_only" in app.log.read_text()
        answers["message"] = httpx2.get(f"{there}/symbols").json()["error"]["message"]
    with AppProcess(folder / "trusting", *OPEN, trusted_networks=f"{outside}/32", cache_dir=cache_dir) as app:
        there = f"http://{outside}:{app.port}"
        answers["trusted"] = asked(there, host="localhost")
        answers["trusted under another name"] = asked(there)
        answers["a trusted proxy for others"] = asked(there, host="localhost", x_forwarded_for="198.51.100.1")
    print(json.dumps(answers))


main(Path(sys.argv[1]), *sys.argv[2:])
