"""The catalogue of all indicators. A new indicator needs a function in the module of its family, and a line here."""

from typing import Final

from stockpulse.indicators import momentum, trend, volatility, volume
from stockpulse.indicators.definition import Indicator

CATALOGUE: Final[dict[str, Indicator]] = {
    one.name: one
    for one in (
        trend.sma,
        trend.ema,
        trend.wma,
        trend.dema,
        trend.tema,
        trend.hma,
        trend.kama,
        trend.t3,
        trend.vwma,
        trend.vwap,
        trend.macd,
        trend.adx,
        trend.aroon,
        trend.sar,
        trend.supertrend,
        trend.ichimoku,
        trend.trix,
        trend.linreg_slope,
        momentum.rsi,
        momentum.stoch_fast,
        momentum.stoch,
        momentum.stoch_rsi,
        momentum.williams_r,
        momentum.cci,
        momentum.roc,
        momentum.momentum,
        momentum.ppo,
        momentum.cmo,
        momentum.ultimate,
        momentum.awesome,
        momentum.tsi,
        volatility.bollinger,
        volatility.atr,
        volatility.natr,
        volatility.trange,
        volatility.stddev,
        volatility.keltner,
        volatility.donchian,
        volatility.historical_volatility,
        volatility.ulcer,
        volume.obv,
        volume.ad,
        volume.chaikin,
        volume.cmf,
        volume.mfi,
        volume.force_index,
        volume.volume_sma,
    )
}
