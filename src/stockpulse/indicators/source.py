"""Generates the source of an indicator's loop from its graph, and the parameters to run the loop with.

One loop serves batch and stream. For each sequence of bars it loads the symbol's state into local variables, goes
through the bars, and stores the state: thousands of bars of one symbol (batch), or one bar of each of thousands of
symbols (stream). The last `hold` bars, none or one, are a second part: they get their values too, but stay out of the
state.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.indicators.algebra import INPUTS, Node, Series
from stockpulse.indicators.steps import FUNCTIONS, SOURCE

_LOOP: Final = '''\
"""Generated from the definition of an indicator; see stockpulse.indicators.source."""

from math import inf, log, nan, sqrt

{imports}


def loop(
    state, rows, first, last, hold, {inputs}, out, int_params, float_params, places
):
    {constants}
    parts = 2 if hold else 1
    for i in range(rows.shape[0]):
        memory = state[rows[i]]
        begin, end = first[i], last[i] - hold
        {load}
        for part in range(parts):
            for t in range(index(begin), index(end)):
                {body}
            if part == 0:
                {store}
                begin, end = end if end > begin else begin, last[i]
'''


@dataclass(frozen=True)
class Loop:
    """The loop of an indicator: its text, which does not depend on the parameters, and the parameters."""

    text: str
    int_params: npt.NDArray[np.int64]
    float_params: npt.NDArray[np.float64]
    places: npt.NDArray[np.int64]
    """The place of each window's memory in a symbol's state."""
    width: int
    """The size of a symbol's state, in float64."""
    outputs: int
    lookback: tuple[int, ...]
    """The number of bars before the first value, for each output."""
    influence: int | None
    """The number of bars after which a bar has no weight in the values any more; None: it always has."""

    @cached_property
    def name(self) -> str:
        """The module name of the text. It changes with the text and with the source of the steps."""
        return "loop_" + hashlib.sha256((SOURCE + self.text).encode()).hexdigest()[:16]


@dataclass
class _Writer:
    """Writes the loop, one series after another."""

    steps: set[str] = field(default_factory=lambda: {"index"})
    constants: list[str] = field(default_factory=list)
    load: list[str] = field(default_factory=list)
    fold: list[str] = field(default_factory=list)
    store: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    int_params: list[int] = field(default_factory=list)
    float_params: list[float] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    width: int = 0
    variables: dict[tuple[object, int], str] = field(default_factory=dict)
    nodes: dict[object, Node] = field(default_factory=dict)
    lookback: dict[str, int] = field(default_factory=dict)
    influence: dict[str, int | None] = field(default_factory=dict)

    def variable(self, series: Series) -> str:
        """Return the variable that holds a series; write its calculation if it is new."""
        if series.name is not None:
            return self._input(series.name)
        if series.node is None:
            return self._float_param(series.value or 0.0)
        return self._output(series.node, series.output)

    def _input(self, name: str) -> str:
        if (name, 0) not in self.variables:
            self.variables[name, 0] = f"{name}_t"
            self.body.append(f"{name}_t = {name}[t]")
            self._is_known_at_once(f"{name}_t")
        return self.variables[name, 0]

    def _float_param(self, value: float) -> str:
        place = len(self.float_params)
        self.constants.append(f"c{place} = float_params[{place}]")
        self.float_params.append(value)
        self._is_known_at_once(f"c{place}")
        return f"c{place}"

    def _int_param(self, value: float) -> str:
        place = len(self.int_params)
        self.constants.append(f"n{place} = int_params[{place}]")
        self.int_params.append(int(value))
        return f"n{place}"

    def _is_known_at_once(self, variable: str) -> None:
        self.lookback[variable] = self.influence[variable] = 0

    def _depends(self, variable: str, on: list[str], node: Node) -> None:
        step = node.step
        self.lookback[variable] = step.known_from(self.lookback[one] for one in on) + step.lookback(*node.constants)
        influence = step.influence(*node.constants)
        before = [self.influence[one] for one in on]
        forever = influence is None or None in before
        self.influence[variable] = None if forever else max((b for b in before if b), default=0) + (influence or 0)

    def _output(self, node: Node, output: int) -> str:
        # Equal series are calculated once. Series with constants are not shared, even if their constants happen to be
        # equal: the text would then depend on the parameters, and would be compiled for these alone.
        inputs = [self._identity(one) for one in node.inputs]
        key = (node.step.name, node.template, tuple(inputs), id(node) if node.constants else None)
        if (key, output) not in self.variables:
            self._write(key, node, [self.variable(one) for one in node.inputs])
        return self.variables[key, output]

    def _identity(self, series: Series) -> object:
        """Return the same value for all objects that stand for one series."""
        if series.node is None:
            return series.name or series.value
        return (self.variable(series),)

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
            self._int_param(value) if kind == "i" else self._float_param(value)
            for kind, value in zip(step.constants, node.constants, strict=True)
        ]
        self.body.append(_call(step.name, state + results, [*state, *memory, *inputs, *constants]))
        if step.folds:
            self.steps.add(f"fold_{step.name}")
            self.fold.append(_call(f"fold_{step.name}", state, [*state, *memory, *constants]))

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


def build_loop(outputs: Iterable[Series]) -> Loop:
    """Return the loop that calculates these series."""
    writer = _Writer()
    results = [writer.variable(one) for one in outputs]
    for i, variable in enumerate(results):
        writer.body.append(f"out[{i}, t] = {variable} - ({variable} - {variable})  # null if it is infinite")
    text = _LOOP.format(
        inputs=", ".join(INPUTS),
        imports="\n".join(f"from {FUNCTIONS[name].__module__} import {name}" for name in sorted(writer.steps)),
        constants=_lines(writer.constants, 1),
        load=_lines(writer.load, 2),
        body=_lines(writer.body, 4),
        store=_lines(writer.fold + writer.store, 4),
    )
    # The state is the scalars, then the memory of each window.
    sizes = np.array(writer.places, np.int64)
    influence = [writer.influence[variable] for variable in results]
    return Loop(
        text=text,
        int_params=np.array(writer.int_params, np.int64),
        float_params=np.array(writer.float_params, np.float64),
        places=writer.width + np.cumsum(sizes) - sizes,
        width=writer.width + int(sizes.sum()),
        outputs=len(results),
        lookback=tuple(writer.lookback[variable] for variable in results),
        influence=None if None in influence else max(one for one in influence if one is not None),
    )


def _call(name: str, results: list[str], arguments: list[str]) -> str:
    return f"{', '.join(results)} = {name}({', '.join(arguments)})"


def _lines(lines: list[str], depth: int) -> str:
    return ("\n" + "    " * depth).join(lines or ["pass"])
