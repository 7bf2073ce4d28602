"""Corporate actions in Alpaca's replies: splits, dividends, renames, mergers."""

from datetime import date
from typing import Any, Final

import polars as pl

from stockpulse.market.times import read_date
from stockpulse.providers.faults import BadReply

ACTIONS: Final = pl.Schema(
    {
        "kind": pl.String(),  # Alpaca's name of the group: "forward_splits", "cash_dividends", …
        "symbol": pl.String(),  # before the action
        "new_symbol": pl.String(),  # null: it stays
        "process_date": pl.Date(),
        "ex_date": pl.Date(),
        "old_rate": pl.Float64(),  # of a split or a dividend in shares: new_rate shares for old_rate shares
        "new_rate": pl.Float64(),
        "cash": pl.Float64(),  # per share
    }
)


def actions_in(reply: Any) -> pl.DataFrame:
    """Return the actions of a reply as ACTIONS. Groups that are absent are empty; fields that are missing are null."""
    groups = reply.get("corporate_actions") if isinstance(reply, dict) else None
    if groups is not None and not isinstance(groups, dict):
        raise BadReply("alpaca: the corporate actions are no object")
    rows = [
        _row(kind, action)
        for kind, actions in (groups or {}).items()
        for action in actions or []
        if isinstance(action, dict)
    ]
    return pl.DataFrame(rows, schema=ACTIONS, orient="row")


def _row(kind: str, action: dict[str, Any]) -> tuple[object, ...]:
    return (
        kind,
        _text(action, "symbol", "old_symbol", "source_symbol", "acquiree_symbol"),
        _text(action, "new_symbol", "acquirer_symbol"),
        _date(action, "process_date"),
        _date(action, "ex_date"),
        _number(action, "old_rate", "source_rate", "acquiree_rate"),
        _number(action, "new_rate", "acquirer_rate", *(("rate",) if kind == "stock_dividends" else ())),
        None if kind == "stock_dividends" else _number(action, "rate", "cash_rate"),
    )


def _text(action: dict[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := action.get(name), str) and value), None)


def _number(action: dict[str, Any], *names: str) -> float | None:
    return next((float(value) for name in names if isinstance(value := action.get(name), int | float)), None)


def _date(action: dict[str, Any], name: str) -> date | None:
    value = action.get(name)
    return read_date(value) if isinstance(value, str) else None
