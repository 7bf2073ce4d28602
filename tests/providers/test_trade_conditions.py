"""The parts of a bar that trades count for, by the vendors' own tables."""

import itertools

import pytest

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import (
    COUNTS_FOR_PRICE,
    COUNTS_FOR_VOLUME,
    DAY_APART,
    DAY_FIRST_PRICE,
    DAY_OPENING,
    DAY_PRICE,
    DAY_SHIFT,
    DAY_VOLUME,
    UNREADABLE,
)
from stockpulse.providers.trade_conditions import RULES, algoseek, all_count, alpaca, rule_named

PRICE, VOLUME, BOTH, NEITHER = COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME, 0

FIRST = DAY_FIRST_PRICE >> DAY_SHIFT


def minute(flags):
    """The parts of minute bars that a trade counts for."""
    return flags & BOTH


def day(flags):
    """The parts of daily bars that a trade counts for, if the rule assigns the day by date."""
    assert flags & DAY_APART
    return flags >> DAY_SHIFT & 15


REGULAR, SWEEP, OPENING, CLOSING = 0x1, 0x20, 0x40, 0x80
DERIVATIVE, EXTENDED, OUT_OF_SEQUENCE, AVERAGE = 0x200, 0x2000, 0x4000, 0x100000
OFFICIAL_CLOSE, OFFICIAL_OPEN, EXEMPT = 0x1000000, 0x4000000, 0x20000000
FLAGS = (
    REGULAR,
    SWEEP,
    OPENING,
    CLOSING,
    DERIVATIVE,
    EXTENDED,
    OUT_OF_SEQUENCE,
    AVERAGE,
    OFFICIAL_CLOSE,
    OFFICIAL_OPEN,
    EXEMPT,
)


class TestAlgoseek:
    @pytest.mark.parametrize(
        ("flags", "counts"),
        [
            (REGULAR, BOTH),
            (DERIVATIVE, BOTH),
            (EXTENDED, BOTH),
            (OUT_OF_SEQUENCE, BOTH),
            (AVERAGE, BOTH),
            (SWEEP, VOLUME),
            (EXEMPT, VOLUME),
            (OPENING, NEITHER),
            (CLOSING, NEITHER),
            (OFFICIAL_CLOSE, NEITHER),
            (OFFICIAL_OPEN, NEITHER),
            (0, BOTH),
        ],
    )
    def test_each_flag(self, flags, counts):
        assert minute(algoseek(f"{flags:x}")) == counts

    @pytest.mark.parametrize("flags", [REGULAR, SWEEP, EXTENDED, AVERAGE, DERIVATIVE, OUT_OF_SEQUENCE, EXEMPT, 0])
    def test_a_trade_counts_for_the_day_of_its_session(self, flags):
        assert not algoseek(f"{flags:x}") & DAY_APART

    @pytest.mark.parametrize(
        ("flags", "counts"),
        [
            (OPENING, DAY_PRICE | DAY_VOLUME | DAY_OPENING),
            (OPENING | EXEMPT, DAY_PRICE | DAY_VOLUME | DAY_OPENING),
            (OPENING | EXEMPT | 0x200000, DAY_PRICE | DAY_VOLUME),  # a cross on another exchange
            (CLOSING, DAY_PRICE | DAY_VOLUME),
            (CLOSING | EXEMPT, DAY_PRICE | DAY_VOLUME),
            (OFFICIAL_CLOSE | REGULAR, DAY_PRICE),
            (OFFICIAL_OPEN | REGULAR, DAY_PRICE | DAY_OPENING),
        ],
    )
    def test_an_auction_print_counts_for_the_day_of_its_date(self, flags, counts):
        assert algoseek(f"{flags:x}") == DAY_APART | counts

    @pytest.mark.parametrize("flags", [OFFICIAL_CLOSE, OFFICIAL_OPEN, OFFICIAL_CLOSE | EXEMPT])
    def test_a_message_that_states_an_official_price_counts_for_nothing(self, flags):
        assert algoseek(f"{flags:x}") == 0

    def test_every_combination(self):
        for size in range(len(FLAGS) + 1):
            for chosen in itertools.combinations(FLAGS, size):
                if {OPENING, CLOSING, OFFICIAL_CLOSE, OFFICIAL_OPEN} & set(chosen):
                    counts = NEITHER
                elif {SWEEP, EXEMPT} & set(chosen) and EXTENDED not in chosen:
                    counts = VOLUME
                else:
                    counts = BOTH
                assert minute(algoseek(f"{sum(chosen):x}")) == counts

    @pytest.mark.parametrize("conditions", ["20000020", "0x20000020", "20000020".zfill(16)])
    def test_however_the_number_is_written(self, conditions):
        assert algoseek(conditions) == VOLUME
        assert minute(algoseek("4000040".upper())) == NEITHER

    def test_a_trade_without_conditions_counts_for_everything(self):
        assert algoseek("") == BOTH

    @pytest.mark.parametrize("conditions", ["@", "xyz", "@,I", "12 34", "0x"])
    def test_what_is_no_number_is_unreadable_and_counts_for_volume_alone(self, conditions):
        assert algoseek(conditions) == UNREADABLE | VOLUME


# Alpaca's market data FAQ, "How are bars aggregated?", row by row: conditions, tapes, minute, day.
ALPACA_TABLE = [
    (" E", "AB", BOTH, BOTH),
    ("@", "CO", BOTH, BOTH),
    ("ADYB", "C", BOTH, BOTH),
    ("B", "AB", VOLUME, VOLUME),
    ("FKLOX56", "ABC", BOTH, BOTH),
    ("CINRU", "ABCO", VOLUME, VOLUME),
    ("HV7", "ABC", VOLUME, VOLUME),
    ("W", "CO", VOLUME, VOLUME),
    ("T", "ABCO", BOTH, VOLUME),
    ("G", "C", VOLUME, FIRST | VOLUME),
    ("P", "ABCO", VOLUME, FIRST | VOLUME),
    ("Z4", "ABC", VOLUME, FIRST | VOLUME),
    ("MQ", "ABC", NEITHER, NEITHER),
    ("9", "ABC", NEITHER, PRICE),
]
CELLS = [(code, tape, *counts) for codes, tapes, *counts in ALPACA_TABLE for code in codes for tape in tapes]


def strictest(one, other):
    """The effect of two conditions: the strictest for prices, and the strictest for volume."""
    ranks = {PRICE: 2, FIRST: 1, NEITHER: 0}
    price = min(one & ~VOLUME, other & ~VOLUME, key=ranks.__getitem__)
    return price | (one & other & VOLUME)


class TestAlpaca:
    @pytest.mark.parametrize(("code", "tape", "of_minute", "of_day"), CELLS)
    def test_each_cell_of_the_table(self, code, tape, of_minute, of_day):
        flags = alpaca(code, tape)
        assert (minute(flags), day(flags)) == (of_minute, of_day)
        assert not flags & UNREADABLE

    def test_the_strictest_of_two_counts(self):
        for one, other in itertools.combinations(CELLS, 2):
            if one[1] == other[1]:
                flags = alpaca(f"{one[0]},{other[0]}", one[1])
                assert minute(flags) == strictest(one[2], other[2]), (one, other)
                assert day(flags) == strictest(one[3], other[3]), (one, other)

    def test_without_a_tape_the_regular_sale_tells_it(self):
        assert minute(alpaca("@,B")) == BOTH  # bunched
        assert minute(alpaca(" ,B")) == VOLUME  # average price
        assert minute(alpaca("B")) == VOLUME  # the strictest

    def test_without_conditions_everything_counts_and_the_clock_decides(self):
        assert alpaca("") == alpaca("", "C") == BOTH

    @pytest.mark.parametrize("code", ["@", "F", "T", "X", "O", "5", "6", "E", "K", "L"])
    def test_codes_that_leave_out_nothing_of_a_minute(self, code):
        assert minute(alpaca(code)) == BOTH

    @pytest.mark.parametrize(
        ("conditions", "counts"),
        [
            ("@,I", VOLUME),
            ("@, I", VOLUME),
            ("@,W", VOLUME),
            (" ,F,T", BOTH),
            ("@,T,M", NEITHER),
            ("I,M", NEITHER),
            ("9", NEITHER),
            ("@,9", NEITHER),
        ],
    )
    def test_one_is_enough(self, conditions, counts):
        assert minute(alpaca(conditions)) == counts

    @pytest.mark.parametrize("conditions", ["i", "MQ", "S", "1", "@,?", "@,S"])
    def test_what_is_not_in_the_table_is_unreadable_and_counts_for_volume_alone(self, conditions):
        flags = alpaca(conditions)
        assert flags & UNREADABLE
        assert (minute(flags), day(flags)) == (VOLUME, VOLUME)

    def test_what_is_unreadable_does_not_bring_back_a_volume(self):
        assert minute(alpaca("M,?")) == NEITHER

    def test_a_condition_that_its_tape_does_not_have_counts_as_on_the_others(self):
        assert minute(alpaca("W", "A")) == VOLUME
        assert minute(alpaca("@", "A")) == BOTH
        assert minute(alpaca("@", "N")) == BOTH


def test_a_rule_is_found_by_its_name():
    assert {name: rule_named(name) for name in RULES} == {"all": all_count, "algoseek": algoseek, "alpaca": alpaca}


def test_an_unknown_name_is_told_which_there_are():
    with pytest.raises(InvalidInput, match="conditions: got 'sip'; takes one of all, algoseek, alpaca"):
        rule_named("sip")


def test_without_a_rule_everything_counts():
    assert all_count("anything") == BOTH
