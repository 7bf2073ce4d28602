"""Other names of indicators, outputs and parameters: the names of TA-Lib and other common names.

Every reader of names accepts them. Answers use the names of the catalogue.
"""

from collections.abc import Mapping
from typing import Final

from stockpulse.errors import InvalidInput
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import Indicator

_TALIB: Final = {
    "stochf": "stoch_fast",
    "stochrsi": "stoch_rsi",
    "willr": "williams_r",
    "mom": "momentum",
    "ultosc": "ultimate",
    "bbands": "bollinger",
    "adosc": "chaikin",
    "linearreg_slope": "linreg_slope",
}
_CUSTOMARY: Final = {
    "bb": "bollinger",
    "bollinger_bands": "bollinger",
    "stochastic": "stoch",
    "williams": "williams_r",
    "ao": "awesome",
    "awesome_oscillator": "awesome",
    "uo": "ultimate",
    "ultimate_oscillator": "ultimate",
    "psar": "sar",
    "parabolic_sar": "sar",
    "dmi": "adx",
    "kc": "keltner",
    "dc": "donchian",
    "hv": "historical_volatility",
    "volatility": "historical_volatility",
    "ulcer_index": "ulcer",
    "efi": "force_index",
    "adl": "ad",
    "tr": "trange",
    "stdev": "stddev",
    "slope": "linreg_slope",
    "mean_volume": "volume_sma",
}
_OUTPUTS: Final = {
    "aroonosc": "aroon_oscillator",
    "aroonup": "aroon_up",
    "aroondown": "aroon_down",
    "upperband": "bb_upper",
    "middleband": "bb_middle",
    "lowerband": "bb_lower",
    "macdsignal": "macd_signal",
    "macdhist": "macd_histogram",
    "slowk": "stoch_k",
    "slowd": "stoch_d",
    "fastk": "stoch_fast_k",
    "fastd": "stoch_fast_d",
}
_PARAMETERS: Final = {
    "timeperiod": "period",
    "length": "period",
    "window": "period",
    "fastperiod": "fast",
    "slowperiod": "slow",
    "signalperiod": "signal",
    "vfactor": "volume_factor",
    "nbdevup": "deviations",
    "nbdevdn": "deviations",
    "timeperiod1": "short",
    "timeperiod2": "medium",
    "timeperiod3": "long",
    "fastk_period": "k",
    "fastd_period": "d",
    "slowk_period": "smoothing",
    "slowd_period": "d",
}

OUTPUTS: Final[dict[str, tuple[Indicator, int]]] = {
    **{one.name: (one, 0) for one in CATALOGUE.values()},
    **{name: (one, output) for one in CATALOGUE.values() for output, name in enumerate(one.outputs)},
}
"""Each indicator with the output that a name means: an output's own name, or the indicator's for its first output."""

OUTPUTS.update({alias: OUTPUTS[name] for alias, name in (_TALIB | _CUSTOMARY | _OUTPUTS).items()})

INDICATORS: Final[dict[str, Indicator]] = {name: indicator for name, (indicator, _) in OUTPUTS.items()} | CATALOGUE
"""The indicators by their names, the names of their outputs, and all other names of these."""


def parameter_name(indicator: Indicator, name: str) -> str | None:
    """Return an indicator's own name of a parameter; None if it has no such parameter."""
    own = _PARAMETERS.get(name, name)
    names = {one.name for one in indicator.parameters}
    return name if name in names else own if own in names else None


def aliases_of(indicator: Indicator) -> list[str]:
    """Return the other names of an indicator and of its outputs."""
    own = {indicator.name, *indicator.outputs}
    return [name for name, (one, _) in OUTPUTS.items() if one is indicator and name not in own]


def aliases_of_parameter(indicator: Indicator, name: str) -> list[str]:
    """Return the other names of a parameter."""
    return [alias for alias in _PARAMETERS if parameter_name(indicator, alias) == name and alias != name]


def with_own_names(indicator: Indicator, given: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that an indicator has, by its own names for them.

    Raises InvalidInput if two names of one parameter have different values.
    """
    found: dict[str, str] = {}
    for name, value in given.items():
        own = parameter_name(indicator, name)
        if own is None:
            continue
        if found.setdefault(own, value) != value:
            raise InvalidInput(name, f"got {value[:40]!r}; is {own} of {indicator.name}, which is {found[own][:40]!r}")
    return found
