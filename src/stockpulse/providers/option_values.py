"""The values of providers' options: checks that name the environment variable."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from stockpulse.errors import InvalidInput, shown
from stockpulse.providers.base import Option


def whole_number(option: Option, values: Mapping[str, str], least: int) -> int:
    """Return the value of an option as a whole number. Raises InvalidInput if it is less than `least`."""
    text = values.get(option.name, option.default) or ""
    if text.isascii() and text.isdigit() and int(text) >= least:
        return int(text)
    raise InvalidInput(option.variables[0], f"got {shown(text)}; takes a whole number >= {least}")


def address(option: Option, values: Mapping[str, str], *schemes: str) -> str:
    """Return the value of an option that is an address with one of these schemes. Raises InvalidInput."""
    text = (values.get(option.name, option.default) or "").strip().rstrip("/")
    try:
        parts = urlsplit(text)
        found = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        found = False
    if not found:
        takes = " or ".join(f"{scheme}://" for scheme in schemes)
        raise InvalidInput(option.variables[0], f"got {shown(text)}; takes an address that begins with {takes}")
    return text


def choice(option: Option, values: Mapping[str, str], allowed: Sequence[str]) -> str:
    """Return the value of an option that is one of a few words. Raises InvalidInput for another value."""
    text = (values.get(option.name, option.default) or "").strip().lower()
    if text in allowed:
        return text
    raise InvalidInput(
        option.variables[0], f"got {shown(text)}; takes {', '.join(word or 'nothing' for word in allowed)}"
    )


def yes_or_no(option: Option, values: Mapping[str, str]) -> bool:
    """Return the value of an option that is on or off. Raises InvalidInput for another value."""
    return choice(option, values, ("true", "false", "1", "0", "yes", "no")) in ("true", "1", "yes")
