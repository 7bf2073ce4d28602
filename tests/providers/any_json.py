"""Payloads that no vendor should send: any JSON, good payloads with something else in them, and broken texts."""

import copy
import string

import orjson
from hypothesis import strategies as st

_KEYS = st.sampled_from(
    [*"abcdehlopstvx", "code", "message", "status", "error", "values", "meta", "event", "data", "type", "symbol", "msg"]
) | st.text(string.ascii_letters, max_size=5)
_NUMBERS = (
    st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, -1, 1, 1e308, 5e-324, 2**53 + 1, 1784035800, 1784035800123])
)
_TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "0",
        "-1",
        "NaN",
        "Infinity",
        "1e999",
        "2026-07-14",
        "2026-07-14 09:30:00",
        "9999-99-99",
        "ok",
        "error",
        "trade",
    ]
)
_LEAVES = st.none() | st.booleans() | _NUMBERS | _TEXTS


def any_json():
    """Return any value that JSON can state."""
    return st.recursive(
        _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=12
    )


def mutated(payload):
    """Return a good payload with some of its parts replaced by any other value, removed or repeated."""

    @st.composite
    def draw_one(draw):
        body = copy.deepcopy(payload)
        for _ in range(draw(st.integers(1, 3))):
            places = list(_places(body))
            if not places:
                break
            holder, at = draw(st.sampled_from(places))
            action = draw(st.sampled_from(["replace", "remove", "repeat"]))
            if action == "remove":
                del holder[at]
            elif action == "repeat" and isinstance(holder, list):
                holder.insert(at, copy.deepcopy(holder[at]))
            else:
                holder[at] = draw(any_json())
        return body

    return draw_one()


def broken(payload):
    """Return the text of a good payload, cut off or with some bytes changed."""
    text = orjson.dumps(payload)
    cut = st.integers(0, len(text)).map(lambda length: text[:length])
    changed = st.tuples(st.integers(0, len(text) - 1), st.binary(max_size=3)).map(
        lambda change: text[: change[0]] + change[1] + text[change[0] + 1 :]
    )
    return cut | changed


def _places(value):
    """Yield each place in a payload, as its holder and its key or number."""
    if isinstance(value, dict | list):
        for at in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, at
            yield from _places(value[at])
