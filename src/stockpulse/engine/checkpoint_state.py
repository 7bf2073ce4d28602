"""The state of a shard, as a checkpoint stores it."""

import io
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stockpulse.engine.bar_math import Rows
from stockpulse.market.intervals import Interval

State = dict[str, npt.NDArray[Any]]
"""Arrays by kind: `BAR` records under the name of each base interval, `SYMBOL_STATE` under "symbols", and so on."""

SYMBOL_STATE: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("watermark", "i8"),  # greatest event time of a trade, UTC microseconds
        ("provider_id", "i8"),  # the provider whose clock closes its bars; 0: no record yet
        ("dirty", "?"),
    ]
)


@dataclass(frozen=True)
class Changes:
    """The changes since the last flush, up to the log's `offset`."""

    offset: int
    moved: bool
    """True if the offset has changed."""
    bars: dict[Interval, Rows]
    """Final bars, to be stored."""
    state: State
    """The changed state, for the checkpoint."""
    removed: dict[Interval, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Keys of bars that are to be deleted, before `bars` are stored."""

    def __bool__(self) -> bool:
        return self.moved or bool(self.state)


def with_room(records: npt.NDArray[np.void], symbol_id: int) -> npt.NDArray[np.void]:
    """Return records that are indexed by symbol id, grown until this symbol has one too."""
    have = len(records)
    more = max(symbol_id + 1, 2 * have) - have
    grown = np.zeros(more, records.dtype)
    grown["symbol_id"] = np.arange(have, have + more)
    return np.concatenate([records, grown])


def of_symbols(records: npt.NDArray[np.void], among: npt.NDArray[np.int64] | None) -> npt.NDArray[np.void]:
    """Return a copy of the records, of all symbols or of `symbols` only."""
    return records.copy() if among is None else records[np.isin(records["symbol_id"], among)]


def encode(state: State) -> bytes:
    """Encode the state as a blob that names and types its own fields (NumPy's npz)."""
    blob = io.BytesIO()
    np.savez(blob, allow_pickle=False, **state)
    return blob.getvalue()


def decode(blob: bytes) -> State:
    """Decode what `encode` returned."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return dict(arrays)
