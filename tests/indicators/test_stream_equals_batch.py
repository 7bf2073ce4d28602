"""A stream of bars gives, bit for bit, the values of one calculation over all bars.  This holds for bars in any
portions, with previews of forming bars, and after a snapshot.
"""

import math
from dataclasses import dataclass

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from indicator_data import Array, Bars, random_values, random_walk, together

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.evaluation import Bundle, Instance

Ints = npt.NDArray[np.int64]

EXAMPLES = max(10, hypothesis.settings.default.max_examples // 4)
KINDS = ("walk", "ticks", "flat", "no volume", "flat, no volume", "one trade", "gap", "tiny", "huge", "huge volume")


@dataclass
class Market:
    """The bars of some symbols, one symbol after the other; `times` says at which step each bar comes."""

    bars: Bars
    first: Ints
    last: Ints
    times: Ints

    @property
    def symbols(self) -> int:
        return len(self.first)


def stretch(kind: str, count: int, price: float, random: np.random.Generator) -> Bars:
    """A number of bars of one kind, that begin near a price."""
    price *= {"gap": random.uniform(0.2, 5), "tiny": 1e-9, "huge": 1e9}.get(kind, 1)
    seed = int(random.integers(2**32))
    bars = random_walk(seed, count, price=price, step=0.02, tick=price / 50 if kind == "ticks" else 0.0)
    if kind.startswith("flat"):
        bars |= dict.fromkeys(("open", "high", "low", "close"), np.full(count, price))
    if kind.endswith("no volume"):
        bars["volume"] = np.zeros(count)
    if kind == "one trade":
        bars |= dict.fromkeys(("open", "high", "low"), bars["close"])
    if kind == "huge volume":
        bars["volume"] = bars["volume"] * 1e12
    return bars


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Symbols that start at different times and miss bars; some have no bars at all."""
    pieces = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 35)), max_size=4)
    symbols = draw(
        st.lists(st.tuples(pieces, st.integers(0, 20), st.sampled_from([0.0, 0.2, 0.7])), min_size=1, max_size=4)
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    series, times = {}, []
    for number, (kinds, start, missing) in enumerate(symbols):
        price, found = random.uniform(1, 500), [{name: np.empty(0) for name in INPUTS}]
        for kind, count in kinds:
            found.append(stretch(kind, count, price, random))
            price = price if kind in {"tiny", "huge"} else float(found[-1]["close"][-1])
        joined = {name: np.concatenate([one[name] for one in found]) for name in INPUTS}
        count = len(joined["close"])
        joined["session"] = np.arange(count) // random.integers(3, 30) + 1.0
        joined["regular"] = (random.random(count) < random.choice([0.5, 1.0])).astype(float)
        joined["bars_per_year"] = np.full(count, random.uniform(1, 1e6))
        series[str(number)] = joined
        times.append(start + np.cumsum(1 + (random.random(count) < missing)))
    bars, first, last = together(series)
    return Market(bars, first, last, np.concatenate(times).astype(np.int64))


def bits(values: Array) -> npt.NDArray[np.uint64]:
    """The bits of floats; all null are one."""
    return np.where(np.isnan(values), math.nan, values).view(np.uint64)


def same(a: Array, b: Array) -> bool:
    return np.array_equal(bits(a), bits(b))


def batch(compiler: Compiler, bundle: Bundle, market: Market) -> Array:
    states = bundle.fresh(market.symbols)
    return bundle.calculate(compiler, states, np.arange(market.symbols), market.first, market.last, market.bars)


@pytest.mark.parametrize("name", CATALOGUE)
@hypothesis.settings(max_examples=EXAMPLES)
@hypothesis.given(data=st.data())
def test_stream_equals_batch(compiler, name, data):
    market = data.draw(markets())
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    values = data.draw(st.sampled_from([random_values(CATALOGUE[name], random, longest=n) for n in (6, 12, 30)]))
    bundle = Bundle([Instance(CATALOGUE[name], values)])
    expected = batch(compiler, bundle, market)

    assert same(bar_by_bar(compiler, bundle, market), expected)
    assert same(in_portions(compiler, bundle, market, random), expected)
    assert same(in_plain_python(bundle, market), expected)
    a, b = market.first[0], market.last[0]
    for end in range(a, b + 1):
        assert same(prefix(compiler, bundle, market, a, end), expected[:, a:end])


def bar_by_bar(compiler: Compiler, bundle: Bundle, market: Market) -> Array:
    """At each step one calculation, for all symbols that have a bar then."""
    states = bundle.fresh(market.symbols)
    found = np.full((bundle.outputs, len(market.times)), -1.0)
    symbols = np.repeat(np.arange(market.symbols), market.last - market.first)
    for step in np.unique(market.times):
        now = np.flatnonzero(market.times == step)
        bars = {name: one[now] for name, one in market.bars.items()}
        at = np.arange(len(now))
        found[:, now] = bundle.calculate(compiler, states, symbols[now], at, at + 1, bars)
    return found


def in_portions(compiler: Compiler, bundle: Bundle, market: Market, random: np.random.Generator) -> Array:
    """Any number of bars at a time, of any symbols; in between there are looks, and moves to another memory."""
    states, rows = bundle.fresh(market.symbols), np.arange(market.symbols)
    found = np.full((bundle.outputs, len(market.times)), -1.0)
    done = market.first.copy()
    while (done < market.last).any():
        states, rows = restored(states, rows, random)
        some = np.flatnonzero(random.random(market.symbols) < 0.7)
        random.shuffle(some)
        first = done[some]
        for _ in range(random.integers(0, 4)):
            preview(compiler, bundle, states, rows[some], first, market, random)
        hold = int(random.integers(0, 2))
        last = np.minimum(first + random.choice([0, 1, 1, 2, 5, 20], len(some)), market.last[some])
        out = bundle.calculate(compiler, states, rows[some], first, last, market.bars, hold=hold)
        for a, b in zip(first, last, strict=True):
            found[:, a:b] = out[:, a:b]
        done[some] = np.maximum(first, last - hold)
        if hold and random.random() < 0.5:  # the held bars are closed now
            out = bundle.calculate(compiler, states, rows[some], done[some], last, market.bars)
            for a, b in zip(done[some], last, strict=True):
                assert same(out[:, a:b], found[:, a:b])
            done[some] = last
    return found


def preview(
    compiler: Compiler,
    bundle: Bundle,
    states: list[Array],
    rows: Ints,
    first: Ints,
    market: Market,
    random: np.random.Generator,
) -> None:
    """Preview the values of other next bars."""
    last = np.minimum(first + 1, len(market.times))
    factor = random.choice([0.0, 0.5, 1.0, 1.001, 1e6])
    changed = {name: one * factor if name == "volume" else one + factor for name, one in market.bars.items()}
    bundle.calculate(compiler, states, rows, first, last, changed, hold=1)


def restored(states: list[Array], rows: Ints, random: np.random.Generator) -> tuple[list[Array], Ints]:
    """The states after a snapshot, in other rows among the states of other symbols."""
    places = random.permutation(len(rows) + 2)[: len(rows)]
    found = []
    for state in states:
        read = np.frombuffer(state[rows].tobytes(), np.float64).reshape(len(rows), -1)
        wider = random.random((len(rows) + 2, state.shape[1]))
        wider[places] = read
        found.append(wider)
    return found, places


def in_plain_python(bundle: Bundle, market: Market) -> Array:
    """The loop without a compiler."""
    (loop,) = bundle.loops
    namespace: dict[str, object] = {}
    exec(loop.text, namespace)
    out = np.empty((loop.outputs, len(market.times)))
    states = np.zeros((market.symbols, loop.width)).tolist()
    columns = [market.bars[name].tolist() for name in INPUTS]
    numbers = (loop.int_params.tolist(), loop.float_params.tolist(), loop.places.tolist())
    rows = np.arange(market.symbols)
    namespace["loop"](states, rows, market.first, market.last, 0, *columns, out, *numbers)  # type: ignore[operator]
    return out


def prefix(compiler: Compiler, bundle: Bundle, market: Market, first: int, last: int) -> Array:
    bars = {name: one[first:last] for name, one in market.bars.items()}
    ends = np.array([0]), np.array([last - first])
    return bundle.calculate(compiler, bundle.fresh(1), np.array([0]), *ends, bars)


def test_all_indicators_of_many_symbols_at_once(compiler):
    # Enough bars for several threads; a stream of them, and each symbol alone, use one thread.
    series = {str(seed): random_walk(seed, 120, tick=0.01 * (seed % 2)) for seed in range(200)}
    bars, first, last = together(series)
    steps = np.arange(120) + first[:, np.newaxis]
    market = Market(bars, first, last, (np.arange(len(bars["close"])) - np.repeat(first, 120)).astype(np.int64))
    bundle = Bundle(Instance(one) for one in CATALOGUE.values())
    expected = batch(compiler, bundle, market)
    assert steps.size == len(market.times) >= 20_000
    assert same(bar_by_bar(compiler, bundle, market), expected)
    for symbol in (0, 99, 199):
        alone = prefix(compiler, bundle, market, first[symbol], last[symbol])
        assert same(alone, expected[:, first[symbol] : last[symbol]])


@pytest.mark.parametrize("name", CATALOGUE)
def test_defaults_on_long_series(compiler, name):
    random = np.random.default_rng(1)
    series = {str(seed): random_walk(seed, 300 + 100 * seed, tick=0.01 * seed) for seed in range(3)}
    bars, first, last = together(series)
    market = Market(bars, first, last, np.arange(len(bars["close"])))
    bundle = Bundle([Instance(CATALOGUE[name])])
    expected = batch(compiler, bundle, market)
    assert same(in_portions(compiler, bundle, market, random), expected)
    assert same(in_plain_python(bundle, market), expected)
