"""The indicators that are stored with every bar: outputs that have a column in the tables of analytics.

All others are calculated on request. Each name here is a column: for a new one, write a migration
(`alembic revision --autogenerate`).
"""

from typing import Final

STORED_INDICATORS: Final = tuple(
    """
    sma ema wma dema tema hma kama t3 vwma vwap macd macd_signal macd_histogram adx plus_di minus_di
    aroon_up aroon_down aroon_oscillator sar supertrend supertrend_direction ichimoku_conversion
    ichimoku_base ichimoku_span_a ichimoku_span_b trix linreg_slope
    rsi stoch_fast_k stoch_fast_d stoch_k stoch_d stoch_rsi_k stoch_rsi_d williams_r cci roc
    momentum ppo cmo ultimate awesome tsi tsi_signal
    bb_upper bb_middle bb_lower bb_percent bb_width atr natr true_range stddev keltner_upper
    keltner_middle keltner_lower donchian_upper donchian_middle donchian_lower historical_volatility
    ulcer
    obv ad chaikin cmf mfi force_index volume_sma
    """.split()  # noqa: SIM905 - a list would be a wall of quotes
)
