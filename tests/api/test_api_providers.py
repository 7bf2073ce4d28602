"""The list of providers over HTTP."""

from stockpulse.providers.registry import installed_providers


async def listed(client):
    answer = await client.get("/api/v1/providers")
    assert answer.status_code == 200
    return {one["name"]: one for one in answer.json()["providers"]}


async def test_every_provider_is_there_with_what_it_declares(serve, postgres_dsn, monkeypatch):
    monkeypatch.setenv("STOCKPULSE_ALPHA_VANTAGE_KEY", "CANARY-key-77")
    monkeypatch.setenv("STOCKPULSE_YAHOO_PER_MINUTE", "many")
    async with serve(
        postgres_dsn, provider="test", symbols=("A", "B"), fallbacks="alpha_vantage", signal_rules={}
    ) as client:
        found = await listed(client)
        assert found.keys() == {entry.name for entry in installed_providers().entries}
        simulated, vantage, yahoo = found["simulated"], found["alpha_vantage"], found["yahoo"]
        assert (simulated["key"], simulated["uses"], simulated["aliases"]) == ("not needed", ["feed"], ["test"])
        assert simulated["state"] in {"connecting", "live"}
        assert (vantage["key"], vantage["uses"], vantage["state"]) == ("set", ["fallback"], "ready")
        assert (vantage["stream"], vantage["latest"], vantage["poll_seconds"]) == (False, True, 3600)
        assert vantage["history"]["1d"] == {"depth_days": 130, "window_days": 130, "symbols": 1}
        assert (yahoo["state"], yahoo["delay_seconds"]) == ("unusable", None)
        assert "STOCKPULSE_YAHOO_PER_MINUTE: got 'many'" in yahoo["why"]
        assert found["finnhub"]["key"] == "missing"
        assert "CANARY-key-77" not in (await client.get("/providers")).text


async def test_a_process_without_feeds_has_no_states(client):
    found = await listed(client)
    assert {one["state"] for one in found.values()} <= {"ready", "unusable"}
    assert found["yahoo"]["state"] == "ready"
    assert found["yahoo"]["history"]["1m"]["depth_days"] == 29
