"""Put rows of several kinds back into the order of their log."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl


def runs_in_order(frames: Sequence[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield runs of rows of one kind in the order of the log: the index of the frame, and the rows.

    The column `seq` of each frame is ascending.
    """
    seqs = np.concatenate([frame["seq"].to_numpy() for frame in frames])
    kinds = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
    kinds = kinds[np.argsort(seqs, kind="stable")]
    taken = [0] * len(frames)
    for run in np.split(kinds, np.flatnonzero(np.diff(kinds)) + 1):
        if len(run):
            kind = int(run[0])
            yield kind, frames[kind].slice(taken[kind], len(run))
            taken[kind] += len(run)
