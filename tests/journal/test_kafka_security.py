"""Brokers with authentication and TLS."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app_process import free_port
from broker import Broker
from kafka_app import Serve, in_environment, on_kafka, stored_ticks, symbols_on, trade

PROTECTED = {"kafka_security_protocol": "SASL_SSL"}
T0 = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
WRONG = "very-secret-and-wrong"


def secured(broker: Broker, topic: str, mechanism: str, password: str) -> dict[str, Any]:
    login = {"kafka_sasl_mechanism": mechanism, "kafka_username": broker.user, "kafka_password": password}
    return on_kafka(broker.secure_bootstrap, topic, **PROTECTED, **login, kafka_ca_file=str(broker.ca_file))


@pytest.mark.thorough
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_ticks_go_through_a_broker_that_wants_a_password(
    serve: Serve,
    postgres_dsn: str,
    secured_broker: Broker,
    mechanism: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = secured(secured_broker, f"s{mechanism.lower()}", mechanism, secured_broker.password)
    said = ""
    async with serve(postgres_dsn, **settings) as client:
        ticks = [trade(symbols_on(2, 1)[0], T0, 5.0)]
        assert (await client.post("/ticks?provider=ours&clock=event", json=ticks)).status_code == 200
        await client.post("/ticks?provider=ours&clock=event&end_of_stream=true")
        assert [tick.price for tick in await stored_ticks(postgres_dsn)] == [5.0]
        for path in ("/health", "/metrics", "/ready", "/openapi.json"):
            said += (await client.get(path)).text
    captured = capfd.readouterr()
    assert secured_broker.password not in said + caplog.text + captured.out + captured.err


@pytest.mark.thorough
@pytest.mark.parametrize("mechanism", ["PLAIN"])
def test_a_wrong_password_stops_the_start_and_is_not_told(
    postgres_dsn: str, secured_broker: Broker, tmp_path: Path, mechanism: str
) -> None:
    settings = secured(secured_broker, "wrong", mechanism, WRONG) | {"database_url": postgres_dsn, "debug": "true"}
    said, status = run_app(settings, tmp_path)
    assert status != 0
    assert "Traceback" not in said, said
    [line] = [entry for entry in entries(said) if entry.get("level") == "critical"]
    assert "STOCKPULSE_KAFKA_PASSWORD" in line["reason"]
    assert f"let {secured_broker.user} in" in line["reason"]
    assert WRONG not in said


@pytest.mark.thorough
def test_an_unknown_authority_stops_the_start(postgres_dsn: str, secured_broker: Broker, tmp_path: Path) -> None:
    settings = secured(secured_broker, "unknown", "PLAIN", secured_broker.password) | {"database_url": postgres_dsn}
    missing = tmp_path / "missing.pem"
    said, status = run_app(settings | {"kafka_ca_file": str(missing)}, tmp_path)
    assert status != 0
    [line] = [entry for entry in entries(said) if entry.get("level") == "critical"]
    assert "STOCKPULSE_KAFKA_CA_FILE" in line["reason"]
    assert secured_broker.password not in said


def run_app(settings: dict[str, Any], folder: Path) -> tuple[str, int]:
    """Run the app until it ends by itself; return its output and exit status."""
    command = [sys.executable, "-m", "uvicorn", "stockpulse.app:app", "--port", str(free_port())]
    environment = in_environment(settings) | {"STOCKPULSE_DATA_DIR": str(folder)}
    log = folder / "said"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(90)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return log.read_text(), status


def entries(said: str) -> list[dict[str, Any]]:
    """Return the log lines of StockPulse."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]
