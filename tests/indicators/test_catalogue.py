"""The rules for every indicator of the catalogue."""

import keyword
import math

import numpy as np
import pytest
from indicator_data import (
    Bars,
    bars_of,
    calculated,
    calculated_for_all,
    generated_bars,
    nulls_first,
    random_values,
    random_walk,
)

from stockpulse.errors import InvalidInput
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import Indicator
from stockpulse.indicators.evaluation import Instance

WITHOUT_VOLUME_NULL = {"vwma", "vwap", "cmf"}
WHERE_FLAT_NULL = {"bb_percent"}
NEVER_SETTLE = {"kama", "vwap", "sar", "supertrend", "obv", "ad", "chaikin"}

every_indicator = pytest.mark.parametrize("indicator", CATALOGUE.values(), ids=CATALOGUE)


def some_instances(indicator: Indicator, count: int, *, longest: int = 30) -> list[Instance]:
    """With the defaults, and with random parameters."""
    random = np.random.default_rng(1)
    others = [random_values(indicator, random, longest=longest) for _ in range(count if indicator.parameters else 0)]
    return [Instance(indicator), *(Instance(indicator, values) for values in others)]


def with_equal_periods(indicator: Indicator) -> Instance:
    return Instance(indicator, {one.name: 9 for one in indicator.parameters if one.is_integer})


# Names and parameters --------------------------------------------------------------------------


def test_names_mean_one_thing_only():
    outputs = [output for one in CATALOGUE.values() for output in one.outputs]
    assert len(outputs) == len(set(outputs))
    assert not {*outputs} & {*INPUTS}
    named_alike = {*outputs} & {*CATALOGUE}
    assert all(name in CATALOGUE[name].outputs for name in named_alike)


@every_indicator
def test_names_are_identifiers_and_everything_is_described(indicator):
    assert CATALOGUE[indicator.name] is indicator
    for name in (indicator.name, *indicator.outputs, *(one.name for one in indicator.parameters)):
        assert name.isidentifier()
        assert name == name.lower()
        assert not keyword.iskeyword(name)
    assert indicator.family in {"trend", "momentum", "volatility", "volume"}
    assert all((indicator.title, indicator.units, indicator.source, indicator.function.__doc__))
    assert len(Instance(indicator).loop.lookback) == len(indicator.outputs)


@every_indicator
def test_defaults_are_within_their_bounds(indicator):
    defaults = {one.name: one.default for one in indicator.parameters if one.default is not None}
    for one in indicator.parameters:
        if one.name in defaults:
            assert one.minimum <= one.default <= one.maximum
            assert one.validate(one.default) == one.default
    assert indicator.validate({}) == defaults
    assert indicator.parameters == () or len(defaults) >= len(indicator.parameters) - 1


@every_indicator
def test_wrong_parameters_are_named(indicator):
    for one in indicator.parameters:
        wrong = [one.minimum - 1, -1, one.maximum + 1, math.nan, math.inf, "", "abc", None, [14], {}]
        wrong += [] if one.is_flag else [0, -(one.default or 1)]
        for value in [*wrong, one.default + 0.5] if one.is_integer else wrong:
            with pytest.raises(InvalidInput) as raised:
                Instance(indicator, {one.name: value})
            assert raised.value.field == one.name, value
            assert "takes a" in str(raised.value)


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["400 digits", "negative", "5000 digits"])
@pytest.mark.parametrize("name", ["period", "deviations"])
def test_a_number_that_no_float_can_hold_is_a_wrong_parameter(name, value):
    # JSON has numbers of any length.
    with pytest.raises(InvalidInput) as raised:
        Instance(CATALOGUE["bollinger"], {name: value})
    assert raised.value.field == name


@every_indicator
def test_parameters_are_taken_as_text_too_and_at_their_bounds(indicator):
    for one in indicator.parameters:
        for value in (one.minimum, one.minimum if one.default is None else one.default, one.maximum):
            taken = one.validate(str(value))
            assert taken == one.validate(value) == value
            assert type(taken) is (bool if one.is_flag else int if one.is_integer else float)


@pytest.mark.parametrize("name", [name for name, one in CATALOGUE.items() if "fast" in str(one.parameters)])
def test_fast_is_not_slower_than_slow(name):
    assert Instance(CATALOGUE[name], {"fast": 9, "slow": 9})
    for wrong in ({"fast": 10, "slow": 9}, {"fast": 5000}, {"slow": 2}):
        with pytest.raises(InvalidInput) as raised:
            Instance(CATALOGUE[name], wrong)
        assert raised.value.field == "fast"


# Loops -----------------------------------------------------------------------------------------


@every_indicator
def test_other_parameters_are_the_same_loop(indicator):
    assert {one.loop.name for one in some_instances(indicator, 5, longest=300)} == {Instance(indicator).loop.name}


@every_indicator
def test_equal_periods_are_the_same_loop(indicator):
    assert with_equal_periods(indicator).loop.name == Instance(indicator).loop.name


def test_other_indicators_are_other_loops():
    # Except for one calculation with two names.
    loops = [(one.inputs, Instance(one).loop.name) for one in CATALOGUE.values()]
    assert len(set(loops)) == len(loops)


@every_indicator
def test_lookback_is_where_the_first_value_stands(compiler, indicator):
    for one in [*some_instances(indicator, 8), with_equal_periods(indicator)]:
        loop = one.loop
        bars = random_walk(2, max(loop.lookback) + 50)
        for (output, values), lookback in zip(calculated(compiler, one, bars).items(), loop.lookback, strict=True):
            assert nulls_first(values) == lookback, f"{one.label} {output}"
            assert not np.isnan(values[lookback:]).any(), f"{one.label} {output}"


@every_indicator
def test_one_bar_less_than_the_lookback_gives_nothing(compiler, indicator):
    loop = Instance(indicator).loop
    for output, lookback in zip(indicator.outputs, loop.lookback, strict=True):
        for more in (0, 1):
            values = calculated(compiler, Instance(indicator), random_walk(3, lookback + more))[output]
            assert (~np.isnan(values)).sum() == more, output


@every_indicator
def test_settling_is_after_how_many_bars_nothing_before_has_weight(compiler, indicator):
    instances = some_instances(indicator, 4)
    assert {one.loop.influence is None for one in instances} == {indicator.name in NEVER_SETTLE}
    for one in instances if indicator.name not in NEVER_SETTLE else []:
        enough = one.loop.influence + max(one.loop.lookback) + 1
        bars = random_walk(4, enough + 400, step=0.03)
        whole = calculated(compiler, one, bars)
        part = calculated(compiler, one, {name: values[-enough:] for name, values in bars.items()})
        price = bars["close"].max() * (bars["volume"].max() if "volume" in indicator.inputs else 1)
        scale = 100 if "price" not in indicator.units else price
        for output in indicator.outputs:
            a, b = whole[output][-1], part[output][-1]
            assert abs(a - b) <= 1e-9 * max(abs(a), scale), f"{one.label} {output}"


@every_indicator
def test_settling_includes_the_lookback(indicator):
    for one in some_instances(indicator, 4):
        assert one.loop.influence is None or one.loop.influence >= max(one.loop.lookback)


# Bars out of the ordinary ----------------------------------------------------------------------


@every_indicator
def test_nulls_after_the_lookback_are_those_of_no_volume_and_of_flat_prices(compiler, indicator):
    # Exactly where is said by the formulas: see test_against_formulas.
    series = generated_bars()
    for one in some_instances(indicator, 2):
        for label, outputs in calculated_for_all(compiler, one, series).items():
            silent = (series[label]["volume"] == 0).any()
            flat = (np.diff(series[label]["close"]) == 0).any()
            for (output, values), lookback in zip(outputs.items(), one.loop.lookback, strict=True):
                assert not np.isinf(values).any()
                may_be_null = (silent and output in WITHOUT_VOLUME_NULL) or (flat and output in WHERE_FLAT_NULL)
                assert may_be_null or not np.isnan(values[lookback:]).any(), f"{one.label} {output}, {label}"


@every_indicator
def test_what_is_null_is_known_again_as_soon_as_it_can_be(compiler, indicator):
    # Flat and without volume from bar 200 to 450 and 180 to 450: in the end nothing of it is left.
    bars = generated_bars()["flat without volume"]
    for output, values in calculated(compiler, Instance(indicator), bars).items():
        assert not np.isnan(values[-100:]).any(), output


@every_indicator
def test_no_bars_are_too_strange(compiler, indicator):
    random = np.random.default_rng(1)
    sizes = 10.0 ** random.uniform(-320, 308, 120)
    strange: dict[str, Bars] = {
        "none": bars_of([]),
        "one": bars_of([1.0]),
        "one without volume": bars_of([1.0], volume=[0.0]),
        "zeros": bars_of(np.zeros(120), volume=np.zeros(120)),
        "greatest": bars_of(np.full(120, 1.7e308), volume=np.full(120, 1.7e308)),
        "least": bars_of(np.full(120, 5e-324), volume=np.full(120, 5e-324)),
        "any size": bars_of(sizes, volume=sizes[::-1]),
        "to and fro": bars_of(np.where(np.arange(120) % 2, 1e-300, 1e300)),
    }
    for label, outputs in calculated_for_all(compiler, Instance(indicator), strange).items():
        for values in outputs.values():
            assert not np.isinf(values).any(), label
