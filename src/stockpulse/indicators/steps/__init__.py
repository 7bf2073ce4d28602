"""The arithmetic of the primitives: one step of each for one more value.

A step takes its state, its slots in the symbol's memory, one value of each input, and its constants. It returns the
new state and the output. These functions run as plain Python, or compiled into the loop of an indicator. Nothing else
calculates, so a bar gives the same bits in a batch over history and in a live stream.

Null is NaN. Given a null, a step answers null and leaves its state alone, unless it says otherwise. All state starts
as zeros.

A step may write to one slot only: the slot that it would write again if the same bar came once more. So a bar can be
previewed without a copy of the memory, and the state before that bar still holds.
"""

import types
from pathlib import Path
from typing import Any, Final

from stockpulse.indicators.steps import pointwise, running, systems, windows

_MODULES: Final = (pointwise, running, systems, windows)

FUNCTIONS: Final[dict[str, types.FunctionType]] = {
    name: function
    for module in _MODULES
    for name, function in vars(module).items()
    if isinstance(function, types.FunctionType) and function.__module__ == module.__name__
}
"""All steps by name."""

GLOBALS: Final[dict[str, Any]] = {name: value for module in _MODULES for name, value in vars(module).items()}
"""All names that the steps refer to."""

SOURCE: Final = "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in _MODULES)
"""The source of all steps: another source means other machine code."""
