"""One rule for symbols: names of vendors, stored in one form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.errors import InvalidInput
from stockpulse.market.symbology import (
    Names,
    TickKind,
    check_provider_name,
    is_pair,
    read_symbol,
    read_symbols,
)
from vendor_symbols import VENDOR_SYMBOLS

NOT_SYMBOLS = [
    "",
    " AAPL",
    "AAPL ",
    "AAPL\n",
    "BRK B",
    "-AAPL",
    "=1+1",
    "@ES",
    "&A",
    ".",
    "..",
    "^",
    "/",
    "//ES",
    "^^A",
    "A/../B",
    "A/./B",
    "A/..",
    "A" * 33,
    "^" + "A" * 32,
    "A'B",
    'A"B',
    "A;B",
    "A$B",
    "A`B",
    "A|B",
    "A\\B",
    "A%2F",
    "A?B",
    "A#B",
    "A,B",
    "AAPL  261218C0015000",
    "AAPLXYZ 261218C00150000",
    "AAPL  261218X00150000",
    # The upper case of these is another ticker: SS, I, S, K, A, FF.
    "\u00df",
    "\u0131",
    "\u017f",
    "\u212a",
    "\uff21",
    "\ufb00",
    "\u0663",
]


@pytest.mark.parametrize(("sent", "stored"), VENDOR_SYMBOLS)
def test_what_vendors_write_is_a_symbol(sent, stored):
    assert read_symbol(sent) == stored
    assert read_symbol(sent.lower()) == stored
    assert read_symbol(stored) == stored
    assert read_symbols([sent, sent.lower(), None, "?"]) == {sent: stored, sent.lower(): stored}


@pytest.mark.parametrize("text", NOT_SYMBOLS)
def test_anything_else_is_not(text):
    assert read_symbol(text) is None
    assert read_symbols(["AAPL", text]) == {"AAPL": "AAPL"}


@given(st.lists(st.text(max_size=4) | st.from_regex(r"\A[/^]?[A-Za-z0-9][A-Za-z0-9./^=_:&-]{0,31}\Z") | st.none()))
def test_a_column_is_read_as_its_values_are(texts):
    read = read_symbols(texts)
    assert [read.get(text) for text in texts] == [None if text is None else read_symbol(text) for text in texts]
    assert None not in read.values()


@given(st.text() | st.from_regex(r"\A[/^]?[A-Za-z0-9][A-Za-z0-9./^=_:&-]{0,31}\Z"))
def test_a_stored_symbol_needs_no_quotes(text):
    symbol = read_symbol(text)
    if symbol is not None:
        assert symbol == symbol.upper() == read_symbol(symbol)
        assert symbol.isascii()
        assert 1 <= len(symbol) <= 32
        assert symbol[0] not in "-=@+."
        assert not set(symbol) & set(" '\"`$;|<>(){}[]*?!\\#%~,\n")
        assert not {".", ".."} & set(symbol.split("/"))


def test_pairs():
    assert [symbol for symbol in ("BTC/USD", "BTC/USDT:USDT", "S/USDT", "1INCH/EUR") if not is_pair(symbol)] == []
    assert [symbol for symbol in ("BRK/B", "RDS/A", "/ES", "/ESZ26:XCME", "BTC-USD", "AAPL") if is_pair(symbol)] == []


@pytest.mark.parametrize("name", ["", "Desk", "1st", "a-b", "x" * 33, "\u00e4", "a\n"])
def test_names_that_no_provider_has(name):
    with pytest.raises(InvalidInput, match=r"sender: got .*; takes 1 to 32 of a-z 0-9 _, beginning with a letter"):
        check_provider_name(name, "sender")


def test_kinds_that_are_added_one_by_one_are_those_that_are_added_at_once():
    kinds = [(number, TickKind(1 + number % 3, f"X{number % 7}", "", number % 128)) for number in range(1, 1000)]
    one_by_one, at_once = Names(), Names()
    for kind in kinds:
        one_by_one.add_kinds([kind])
    at_once.add_kinds(kinds)
    numbers = np.array([number for number, _ in kinds])
    for names in (one_by_one, at_once):
        assert names.flags_of(numbers).tolist() == [kind.flags for _, kind in kinds]
        assert names.providers_of(numbers).tolist() == [kind.provider_id for _, kind in kinds]
        venues = dict(
            zip(names.venues_of(numbers).tolist(), [(k.provider_id, k.exchange) for _, k in kinds], strict=True)
        )
        assert len(venues) == len(set(venues.values())) == 21


def test_of_new_kinds_each_costs_the_same():
    """The arrays grow by doubling, so few additions move them."""
    names, moves, before = Names(), 0, None
    for number in range(1, 10_000):
        names.add_kinds([(number, TickKind(1, str(number), "", 7))])
        moves += names._flags is not before
        before = names._flags
    assert moves < 20
