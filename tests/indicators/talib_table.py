"""The functions of TA-Lib for the indicators of the catalogue: for each a call, its unit, and parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from indicator_data import Array, Bars

from stockpulse.indicators.definition import Value

Call = Callable[..., Any]


@dataclass(frozen=True)
class Counterpart:
    """`call` takes TA-Lib, bars and parameters; it gives the outputs in the order of the catalogue.

    `scale` is what differences are measured by: 100, the greatest "price", the greatest "volume" of a bar, or
    "all volume". `others` are parameters to compare with besides the defaults, `lacking` outputs TA-Lib has not.
    """

    call: Call
    scale: str | float
    others: tuple[dict[str, Value], ...] = ()
    lacking: tuple[str, ...] = ()

    def scale_of(self, bars: Bars) -> float:
        """The size that differences are measured by."""
        sizes = {"price": bars["close"].max(), "volume": bars["volume"].max(), "all volume": bars["volume"].sum()}
        return float(sizes.get(self.scale, self.scale))


def _hlc(bars: Bars) -> tuple[Array, Array, Array]:
    return bars["high"], bars["low"], bars["close"]


def _periods(*periods: int) -> tuple[dict[str, Value], ...]:
    return tuple({"period": period} for period in periods)


def _of_close(name: str) -> Call:
    return lambda ta, bars, period: [getattr(ta, name)(bars["close"], period)]


def _of_hlc(name: str) -> Call:
    return lambda ta, bars, period: [getattr(ta, name)(*_hlc(bars), period)]


def _adx(ta: Any, bars: Bars, period: int) -> list[Array]:
    return [one(*_hlc(bars), period) for one in (ta.ADX, ta.PLUS_DI, ta.MINUS_DI)]


def _aroon(ta: Any, bars: Bars, period: int) -> list[Array]:
    down, up = ta.AROON(bars["high"], bars["low"], period)
    return [up, down, ta.AROONOSC(bars["high"], bars["low"], period)]


def _natr(ta: Any, bars: Bars, period: int) -> list[Array]:
    # Of one bar TA-Lib gives the true range itself: it forgets to divide by the close.
    return [ta.NATR(*_hlc(bars), period) if period > 1 else 100 * ta.TRANGE(*_hlc(bars)) / bars["close"]]


_LENGTHS = _periods(2, 3, 5, 13, 50, 97, 200)

TALIB = {
    "sma": Counterpart(_of_close("SMA"), "price", _LENGTHS),
    "ema": Counterpart(_of_close("EMA"), "price", _LENGTHS),
    "wma": Counterpart(_of_close("WMA"), "price", _LENGTHS),
    "dema": Counterpart(_of_close("DEMA"), "price", _LENGTHS),
    "tema": Counterpart(_of_close("TEMA"), "price", _LENGTHS),
    "kama": Counterpart(_of_close("KAMA"), "price", _LENGTHS),
    "t3": Counterpart(
        lambda ta, bars, period, volume_factor: [ta.T3(bars["close"], period, volume_factor)],
        "price",
        ({"period": 2}, {"period": 9, "volume_factor": 1.0}, {"period": 31, "volume_factor": 0.01}),
    ),
    "macd": Counterpart(
        lambda ta, bars, fast, slow, signal: ta.MACD(bars["close"], fast, slow, signal),
        "price",
        (
            {"fast": 2, "slow": 3, "signal": 2},
            {"fast": 7, "slow": 101, "signal": 3},
            {"fast": 5, "slow": 34, "signal": 50},
            {"fast": 9, "slow": 9},
        ),
    ),
    "adx": Counterpart(_adx, 100, _LENGTHS),
    "aroon": Counterpart(_aroon, 100, _LENGTHS),
    "sar": Counterpart(
        lambda ta, bars, acceleration, maximum: [ta.SAR(bars["high"], bars["low"], acceleration, maximum)],
        "price",
        (
            {"acceleration": 0.001},
            {"acceleration": 0.05, "maximum": 0.07},
            {"acceleration": 0.3, "maximum": 1.0},
            {"acceleration": 0.5},
        ),
    ),
    "trix": Counterpart(_of_close("TRIX"), 100, _periods(2, 3, 9, 60)),
    "linreg_slope": Counterpart(_of_close("LINEARREG_SLOPE"), "price", _LENGTHS),
    "rsi": Counterpart(_of_close("RSI"), 100, _LENGTHS),
    "stoch_fast": Counterpart(
        lambda ta, bars, k, d: ta.STOCHF(*_hlc(bars), k, d),
        100,
        ({"k": 1, "d": 1}, {"k": 2, "d": 7}, {"k": 14}, {"k": 89, "d": 20}),
    ),
    "stoch": Counterpart(
        lambda ta, bars, k, smoothing, d: ta.STOCH(*_hlc(bars), k, smoothing, 0, d, 0),
        100,
        ({"k": 1, "smoothing": 1, "d": 1}, {"k": 14}, {"k": 3, "smoothing": 10, "d": 2}, {"k": 77, "smoothing": 2}),
    ),
    "stoch_rsi": Counterpart(
        lambda ta, bars, period, k, d: ta.STOCHRSI(bars["close"], period, k, d),
        100,
        ({"period": 2, "k": 2, "d": 2}, {"period": 14, "k": 14}, {"period": 5, "k": 40, "d": 11}),
    ),
    "williams_r": Counterpart(_of_hlc("WILLR"), 100, _LENGTHS),
    "cci": Counterpart(_of_hlc("CCI"), 100, _LENGTHS),
    "roc": Counterpart(_of_close("ROC"), 100, _periods(1, 2, 7, 100)),
    "momentum": Counterpart(_of_close("MOM"), "price", _periods(1, 2, 7, 100)),
    "ppo": Counterpart(
        lambda ta, bars, fast, slow: [ta.PPO(bars["close"], fast, slow, 1)],
        100,
        ({"fast": 2, "slow": 3}, {"fast": 7, "slow": 101}, {"fast": 20, "slow": 21}, {"fast": 9, "slow": 9}),
    ),
    "cmo": Counterpart(_of_close("CMO"), 100, _LENGTHS),
    "ultimate": Counterpart(
        lambda ta, bars, short, medium, long: [ta.ULTOSC(*_hlc(bars), short, medium, long)],
        100,
        (
            {"short": 1, "medium": 2, "long": 3},
            {"short": 30, "medium": 5, "long": 11},
            {"short": 5, "medium": 5, "long": 60},
        ),
    ),
    "bollinger": Counterpart(
        lambda ta, bars, period, deviations: ta.BBANDS(bars["close"], period, deviations, deviations),
        "price",
        ({"period": 2}, {"period": 7, "deviations": 0.5}, {"period": 151, "deviations": 3.3}),
        lacking=("bb_percent", "bb_width"),
    ),
    "atr": Counterpart(_of_hlc("ATR"), "price", _periods(1, 2, 3, 13, 97)),
    "natr": Counterpart(_natr, 100, _periods(1, 2, 3, 13, 97)),
    "trange": Counterpart(lambda ta, bars: [ta.TRANGE(*_hlc(bars))], "price"),
    "stddev": Counterpart(_of_close("STDDEV"), "price", _LENGTHS),
    "obv": Counterpart(lambda ta, bars: [ta.OBV(bars["close"], bars["volume"])], "all volume"),
    "ad": Counterpart(lambda ta, bars: [ta.AD(*_hlc(bars), bars["volume"])], "all volume"),
    "chaikin": Counterpart(
        lambda ta, bars, fast, slow: [ta.ADOSC(*_hlc(bars), bars["volume"], fast, slow)],
        "all volume",
        ({"fast": 2, "slow": 3}, {"fast": 9, "slow": 77}, {"fast": 10, "slow": 11}),
    ),
    "mfi": Counterpart(lambda ta, bars, period: [ta.MFI(*_hlc(bars), bars["volume"], period)], 100, _LENGTHS),
    "volume_sma": Counterpart(lambda ta, bars, period: [ta.SMA(bars["volume"], period)], "volume", _LENGTHS),
}
