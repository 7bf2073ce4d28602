"""Indicators: functions in the algebra, with the facts that a user needs."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from stockpulse.errors import InvalidInput
from stockpulse.indicators.algebra import INPUTS, Series

MAX_PERIOD: Final = 5000
"""The longest period, in bars."""

Function = TypeVar("Function", bound=Callable[..., Any])
Value = int | float


def format_number(value: Value) -> str:
    """Return the value of a parameter with all its digits: 14, 2.5, 2 for 2.0."""
    return repr(value).removesuffix(".0")


@dataclass(frozen=True)
class Parameter:
    """A parameter: an integer (a number of bars) or a float (a factor). Both are positive."""

    name: str
    default: Value
    minimum: Value
    maximum: Value

    @property
    def is_integer(self) -> bool:
        """True if it takes integers only."""
        return isinstance(self.default, int)

    def validate(self, value: object) -> Value:
        """Return the value as a number; InvalidInput names the parameter and says what it takes."""
        kind = "a whole number" if self.is_integer else "a number"
        takes = f"takes {kind} from {self.minimum} to {self.maximum}"
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            raise InvalidInput(self.name, f"got a number that is far too large; {takes}") from None
        except (TypeError, ValueError):
            raise InvalidInput(self.name, f"got {str(value)[:40]!r}; {takes}") from None
        if not self.minimum <= number <= self.maximum or (self.is_integer and number != int(number)):
            raise InvalidInput(self.name, f"got {str(value)[:40]}; {takes}")
        return int(number) if self.is_integer else number


@dataclass(frozen=True, eq=False)
class Indicator:
    """An indicator, to be calculated over any bars with any parameters."""

    name: str
    title: str
    family: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    units: str
    """The unit of its values: price, percent, shares, or a range such as "0 to 100"."""
    source: str
    """The source of the formula."""
    parameters: tuple[Parameter, ...]
    function: Callable[..., Any]

    def validate(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return values for all parameters: the given ones, and the defaults of the others."""
        values = {
            one.name: one.validate(given[one.name]) if one.name in given else one.default for one in self.parameters
        }
        unknown = given.keys() - values.keys()
        if unknown:
            raise InvalidInput(
                min(unknown)[:40], f"is not a parameter of {self.name}: {', '.join(values) or 'it has none'}"
            )
        if values.get("fast", 0) > values.get("slow", MAX_PERIOD):
            raise InvalidInput("fast", f"got {values['fast']}; takes no more than slow, which is {values['slow']}")
        return values

    def trace(self, values: Mapping[str, Value]) -> tuple[Series, ...]:
        """Return its outputs as series over symbolic inputs."""
        given = [Series(name=name) for name in self.inputs]
        found = self.function(*given, **values)
        return found if isinstance(found, tuple) else (found,)


def indicator(
    *, title: str, inputs: str, units: str, source: str, outputs: str = "", minimum: int = 1
) -> Callable[[Callable[..., Any]], Indicator]:
    """Turn a function into an indicator. Its positional arguments are the `inputs`, its keywords the parameters.

    `outputs` names the returned values in order; a single output is named after the function. Periods are at least
    `minimum`. The family is the name of the module, and the defaults are the function's.
    """

    def define(function: Callable[..., Any]) -> Indicator:
        name = function.__name__.rstrip("_")
        unknown = set(inputs.split()) - set(INPUTS)
        if unknown:
            raise ValueError(f"{name}: no such inputs: {unknown}")
        return Indicator(
            name=name,
            title=title,
            family=function.__module__.rpartition(".")[2],
            inputs=tuple(inputs.split()),
            outputs=tuple(outputs.split()) or (name,),
            units=units,
            source=source,
            parameters=tuple(_parameters(function, minimum)),
            function=function,
        )

    return define


def _parameters(function: Callable[..., Any], minimum: int) -> list[Parameter]:
    found = []
    for one in inspect.signature(function).parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY:
            limits = (minimum, MAX_PERIOD) if isinstance(one.default, int) else (0.0001, 1000.0)
            found.append(Parameter(one.name, one.default, *limits))
    return found
