"""NumPy arrays: the types that several packages share, and the arrays behind the columns of a frame."""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_FEW_ROWS: Final = 1_000
"""For a column this short, Python is faster than to wake the threads of Polars."""


def array_of(column: pl.Series) -> npt.NDArray[Any]:
    """Return the values of a column of numbers; of a column of times, UTC microseconds (a null is the least int64).

    Each method of Polars that is an expression, such as `Series.to_physical`, costs a small batch 0.1 ms.
    """
    values = column.to_numpy()
    return values.view(np.int64) if values.dtype.kind == "M" else values


def distinct_texts(column: pl.Series) -> list[str | None]:
    """Return the distinct values of a column of texts."""
    if len(column) <= _FEW_ROWS:
        return list(dict.fromkeys(column.to_list()))
    return column.unique().to_list()
