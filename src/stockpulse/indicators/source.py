"""From the graph of an indicator to the source of its loop, and to the numbers that the loop is run with.

One loop does everything. For each sequence of bars it loads the symbol's state into local variables, goes
through the bars, and stores the state: thousands of bars of one symbol (batch), or one bar each of thousands
of symbols (stream). The last `hold` bars, none or one, are answered for but leave no trace in the state.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.indicators import steps
from stockpulse.indicators.algebra import Node, Series

_STEPS: Final = Path(steps.__file__).read_text(encoding="utf-8")

_LOOP: Final = '''\
"""Made by StockPulse from the definition of an indicator; see stockpulse.indicators.source."""

from math import inf, log, nan, sqrt

from stockpulse.indicators.steps import {steps}


def loop(state, rows, first, last, hold, open, high, low, close, volume, session, out, whole, real, places):
    {constants}
    for i in range(rows.shape[0]):
        memory = state[rows[i]]
        keep = last[i] - hold
        {load}
        for t in range(first[i], last[i]):
            if t == keep:
                {store_held}
            {body}
        if hold == 0:
            {store}
'''


@dataclass(frozen=True)
class Loop:
    """The loop of one indicator with certain parameters: its text, which other parameters share, and the numbers."""

    text: str
    whole: npt.NDArray[np.int64]
    real: npt.NDArray[np.float64]
    places: npt.NDArray[np.int64]
    width: int
    """How many float64 a symbol's state takes."""
    outputs: int
    lookback: tuple[int, ...]
    """How many bars come before the first value, for each output."""
    settling: int | None
    """After how many bars what was before them has no weight; None: never."""

    @cached_property
    def name(self) -> str:
        """The name of the module that the text makes: other text or other steps, another name."""
        return "loop_" + hashlib.sha256((_STEPS + self.text).encode()).hexdigest()[:16]


@dataclass
class _Writer:
    """The loop as far as it is written."""

    steps: set[str] = field(default_factory=set)
    constants: list[str] = field(default_factory=list)
    load: list[str] = field(default_factory=list)
    settle: list[str] = field(default_factory=list)
    store: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    width: int = 0
    variables: dict[tuple[object, int], str] = field(default_factory=dict)
    nodes: dict[object, Node] = field(default_factory=dict)
    lookback: dict[str, int] = field(default_factory=dict)
    settling: dict[str, int | None] = field(default_factory=dict)

    def use(self, series: Series) -> str:
        """The variable that holds a series, written down if it is new."""
        if series.name is not None:
            return self._input(series.name)
        if series.node is None:
            return self._real(series.value or 0.0)
        return self._output(series.node, series.output)

    def _input(self, name: str) -> str:
        if (name, 0) not in self.variables:
            self.variables[name, 0] = f"{name}_t"
            self.body.append(f"{name}_t = {name}[t]")
            self._is_known_at_once(f"{name}_t")
        return self.variables[name, 0]

    def _real(self, value: float) -> str:
        self.constants.append(f"c{len(self.real)} = real[{len(self.real)}]")
        self.real.append(value)
        self._is_known_at_once(f"c{len(self.real) - 1}")
        return f"c{len(self.real) - 1}"

    def _whole(self, value: float) -> str:
        self.constants.append(f"n{len(self.whole)} = whole[{len(self.whole)}]")
        self.whole.append(int(value))
        return f"n{len(self.whole) - 1}"

    def _is_known_at_once(self, variable: str) -> None:
        self.lookback[variable] = self.settling[variable] = 0

    def _depends(self, variable: str, on: list[str], node: Node) -> None:
        step = node.step
        self.lookback[variable] = step.known_from(self.lookback[one] for one in on) + step.lookback(*node.constants)
        settling = step.settling(*node.constants)
        before = [self.settling[one] for one in on]
        forever = settling is None or None in before
        self.settling[variable] = None if forever else max((b for b in before if b), default=0) + (settling or 0)

    def _output(self, node: Node, output: int) -> str:
        # A series that is made twice in the same way is calculated once. But not if constants are equal by chance:
        # the text would be another one for these parameters, and compiled for them alone.
        inputs = [self._known(one) for one in node.inputs]
        key = (node.step.name, node.template, tuple(inputs), id(node) if node.constants else None)
        if (key, output) not in self.variables:
            self._write(key, node, [self.use(one) for one in node.inputs])
        return self.variables[key, output]

    def _known(self, series: Series) -> object:
        """What a series is, however many objects say so."""
        if series.node is None:
            return series.name or series.value
        return (self.use(series),)

    def _write(self, key: object, node: Node, inputs: list[str]) -> None:
        number = len(self.nodes)
        self.nodes[key] = node
        step = node.step
        results = [f"x{number}" if step.outputs == 1 else f"x{number}_{i}" for i in range(step.outputs)]
        for output, variable in enumerate(results):
            self.variables[key, output] = variable
            self._depends(variable, inputs, node)
        if node.template is not None:
            self.body.append(f"{results[0]} = {node.template.format(*inputs)}")
            return
        self.steps.add(step.name)
        state = [self._state(f"s{number}_{i}", kind) for i, kind in enumerate(step.state)]
        memory = self._memory(number, node)
        constants = [
            self._whole(value) if kind == "i" else self._real(value)
            for kind, value in zip(step.constants, node.constants, strict=True)
        ]
        self.body.append(_call(step.name, state + results, [*state, *memory, *inputs, *constants]))
        if step.settles:
            self.steps.add(f"settle_{step.name}")
            self.settle.append(_call(f"settle_{step.name}", state, [*state, *memory, *constants]))

    def _state(self, variable: str, kind: str) -> str:
        loaded = f"memory[{self.width}]"
        self.load.append(f"{variable} = int({loaded})" if kind == "i" else f"{variable} = {loaded}")
        self.store.append(f"{loaded} = {variable}")
        self.width += 1
        return variable

    def _memory(self, number: int, node: Node) -> list[str]:
        if node.step.slots is None:
            return []
        self.constants.append(f"at{number} = places[{len(self.places)}]")
        self.places.append(node.step.slots(*node.constants))
        return ["memory", f"at{number}"]


def loop_of(outputs: Iterable[Series]) -> Loop:
    """The loop that calculates these series."""
    writer = _Writer()
    results = [writer.use(one) for one in outputs]
    for i, variable in enumerate(results):
        writer.body.append(f"out[{i}, t] = {variable} if abs({variable}) < inf else nan")
    text = _LOOP.format(
        steps=", ".join(sorted(writer.steps)) or "divide",
        constants=_lines(writer.constants, 1),
        load=_lines(writer.load, 2),
        store_held=_lines(writer.settle + writer.store, 4),
        body=_lines(writer.body, 3),
        store=_lines(writer.settle + writer.store, 3),
    )
    # The scalars stand first, then the memory of each window.
    sizes = np.array(writer.places, np.int64)
    settling = [writer.settling[variable] for variable in results]
    return Loop(
        text=text,
        whole=np.array(writer.whole, np.int64),
        real=np.array(writer.real, np.float64),
        places=writer.width + np.cumsum(sizes) - sizes,
        width=writer.width + int(sizes.sum()),
        outputs=len(results),
        lookback=tuple(writer.lookback[variable] for variable in results),
        settling=None if None in settling else max(one for one in settling if one is not None),
    )


def _call(name: str, results: list[str], arguments: list[str]) -> str:
    return f"{', '.join(results)} = {name}({', '.join(arguments)})"


def _lines(lines: list[str], depth: int) -> str:
    return ("\n" + "    " * depth).join(lines or ["pass"])
