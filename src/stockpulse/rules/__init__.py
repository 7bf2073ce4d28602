"""The small language of conditions on bars and indicators: "sma(20) > sma(50) and rsi(14) < 30".

    condition   or, and, not (in that order, the loosest first), and parentheses
    comparison  < <= > >= == != between two numbers, never chained
    number      + - * / and unary minus, parentheses, 1, 2.5, 1e6
    value       open high low close volume, or an indicator: rsi, rsi(14), rsi(period=14), macd_signal(12, 26, signal=9)

An indicator goes by the name of one of its outputs, or by its own, which means its first output. Names and words
are the same in any case. Types are checked as a text is read, so that what was parsed always evaluates.

A value that is missing is unknown, as is what cannot be computed from it; `and`, `or` and `not` are Kleene's.
"""

from stockpulse.rules.evaluator import FIELDS, Expression, Term
from stockpulse.rules.parser import DEEPEST, LONGEST, MOST_INDICATORS, parse

__all__ = ["DEEPEST", "FIELDS", "LONGEST", "MOST_INDICATORS", "Expression", "Term", "parse"]
