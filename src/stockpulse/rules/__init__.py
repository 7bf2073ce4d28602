"""A small language of conditions on bars and indicators: "sma(20) > sma(50) and rsi(14) < 30".

    condition   or, and, not (in that order, the loosest first), and parentheses
    comparison  < <= > >= == != between two numbers, never chained
    number      + - * / and unary minus, parentheses, 1, 2.5, 1e6
    value       open high low close volume, or an indicator: rsi, rsi(14), rsi(period=14), macd_signal(12, 26, signal=9)
    history     x[n], the value of x n bars ago (n from 1 to 500; x is a value or a condition, in parentheses if it has
                operators); highest(x, n) and lowest(x, n) of the last n bars, this one included; change_pct(n), the
                change of the close over n bars in percent; crosses_above(a, b): a > b now and not one bar ago;
                crosses_below(a, b): a < b now and not one bar ago

A name stands for an output of an indicator; the indicator's own name stands for its first output. Names and words
may have any case. Types are checked while a text is parsed, so a parsed condition always evaluates.

A missing value is unknown, and so is everything computed from it: also what needs more bars than there are. `and`,
`or` and `not` follow Kleene's logic. Two numbers that differ by rounding only are equal: see `operators`.
"""

from stockpulse.rules.bundle import ExpressionBundle
from stockpulse.rules.expression import FIELDS, Expression, Term
from stockpulse.rules.parser import MAX_CHARACTERS, MAX_DEPTH, MAX_INDICATORS, parse

__all__ = ["FIELDS", "MAX_CHARACTERS", "MAX_DEPTH", "MAX_INDICATORS", "Expression", "ExpressionBundle", "Term", "parse"]
