"""What an indicator is: a function in the algebra, with what people must know to use it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from stockpulse.errors import InvalidInput
from stockpulse.indicators.algebra import INPUTS, Series

LONGEST: Final = 5000
"""The greatest period."""

Function = TypeVar("Function", bound=Callable[..., Any])
Value = int | float


def written(value: Value) -> str:
    """A value of a parameter as people write it, with all its digits: 14, 2.5, 2 for 2.0."""
    return repr(value).removesuffix(".0")


@dataclass(frozen=True)
class Parameter:
    """A parameter: a whole number of bars, or a factor. Both are positive."""

    name: str
    default: Value
    least: Value
    most: Value

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return isinstance(self.default, int)

    def checked(self, value: object) -> Value:
        """The value as this parameter takes it; InvalidInput names it and says what it takes."""
        kind = "a whole number" if self.whole else "a number"
        takes = f"takes {kind} from {self.least} to {self.most}"
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            raise InvalidInput(self.name, f"got a number that is far too large; {takes}") from None
        except (TypeError, ValueError):
            raise InvalidInput(self.name, f"got {str(value)[:40]!r}; {takes}") from None
        if not self.least <= number <= self.most or (self.whole and number != int(number)):
            raise InvalidInput(self.name, f"got {str(value)[:40]}; {takes}")
        return int(number) if self.whole else number


@dataclass(frozen=True, eq=False)
class Indicator:
    """An indicator that can be computed for any bars, with any parameters."""

    name: str
    title: str
    family: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    units: str
    """What its values are measured in: price, percent, shares, a range such as "0 to 100"."""
    source: str
    """Where the formula is from."""
    parameters: tuple[Parameter, ...]
    function: Callable[..., Any]

    def checked(self, given: Mapping[str, object]) -> dict[str, Value]:
        """All parameters, those that are not given by their defaults."""
        values = {
            one.name: one.checked(given[one.name]) if one.name in given else one.default for one in self.parameters
        }
        unknown = given.keys() - values.keys()
        if unknown:
            raise InvalidInput(
                min(unknown)[:40], f"is no parameter of {self.name}: {', '.join(values) or 'it has none'}"
            )
        if values.get("fast", 0) > values.get("slow", LONGEST):
            raise InvalidInput("fast", f"got {values['fast']}; takes no more than slow, which is {values['slow']}")
        return values

    def traced(self, values: Mapping[str, Value]) -> tuple[Series, ...]:
        """Its outputs as series over symbolic inputs."""
        given = [Series(name=name) for name in self.inputs]
        found = self.function(*given, **values)
        return found if isinstance(found, tuple) else (found,)


def indicator(
    *, title: str, inputs: str, units: str, source: str, outputs: str = "", least: int = 1
) -> Callable[[Callable[..., Any]], Indicator]:
    """Make an indicator of a function: positional arguments are `inputs`, keywords its parameters.

    `outputs` names the values it gives, in order; one that has only one is named after the function. Periods
    are at least `least`. The family is the module's name, and the defaults are those of the function.
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
            parameters=tuple(_parameters(function, least)),
            function=function,
        )

    return define


def _parameters(function: Callable[..., Any], least: int) -> list[Parameter]:
    found = []
    for one in inspect.signature(function).parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY:
            whole = isinstance(one.default, int)
            found.append(Parameter(one.name, one.default, least if whole else 0.0001, LONGEST if whole else 1000.0))
    return found
