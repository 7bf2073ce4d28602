"""Which trades count for what, by the vendors' own tables."""

import itertools

import pytest

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME
from stockpulse.providers.trade_conditions import RULES, algoseek, all_count, alpaca, rule_named

PRICE, VOLUME, BOTH, NEITHER = COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME, 0

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
        assert algoseek(f"{flags:x}") == counts

    def test_every_combination(self):
        for size in range(len(FLAGS) + 1):
            for chosen in itertools.combinations(FLAGS, size):
                if {OPENING, CLOSING, OFFICIAL_CLOSE, OFFICIAL_OPEN} & set(chosen):
                    counts = NEITHER
                elif {SWEEP, EXEMPT} & set(chosen) and EXTENDED not in chosen:
                    counts = VOLUME
                else:
                    counts = BOTH
                assert algoseek(f"{sum(chosen):x}") == counts

    @pytest.mark.parametrize("conditions", ["20000020", "0x20000020", "20000020".zfill(16)])
    def test_however_the_number_is_written(self, conditions):
        assert algoseek(conditions) == VOLUME
        assert algoseek("4000040".upper()) == NEITHER

    @pytest.mark.parametrize("conditions", ["", "@", "xyz", "@,I", "12 34", "0x"])
    def test_what_is_no_number_counts(self, conditions):
        assert algoseek(conditions) == BOTH


class TestAlpaca:
    @pytest.mark.parametrize("code", [*"BCHINPRUVZ47", "G"])
    def test_out_of_prices(self, code):
        assert alpaca(code) == VOLUME

    @pytest.mark.parametrize("code", "MQ")
    def test_out_of_everything(self, code):
        assert alpaca(code) == NEITHER

    def test_nine_is_out_of_the_volume_of_days_alone(self):
        assert alpaca("9") == VOLUME

    @pytest.mark.parametrize("code", ["", "@", "F", "T", "X", "S", "O", "1", "5", "6", "E", "K", "L"])
    def test_all_others_count(self, code):
        assert alpaca(code) == BOTH

    @pytest.mark.parametrize(
        ("conditions", "counts"),
        [("@,I", VOLUME), ("@, I", VOLUME), (" ,F,T", BOTH), ("@,T,M", NEITHER), ("I,M", NEITHER), ("@,", BOTH)],
    )
    def test_one_is_enough(self, conditions, counts):
        assert alpaca(conditions) == counts

    def test_codes_are_whole_and_their_case_matters(self):
        assert alpaca("i") == BOTH
        assert alpaca("MQ") == BOTH


def test_a_rule_is_found_by_its_name():
    assert {name: rule_named(name) for name in RULES} == {"all": all_count, "algoseek": algoseek, "alpaca": alpaca}


def test_an_unknown_name_is_told_which_there_are():
    with pytest.raises(InvalidInput, match="conditions: got 'sip'; takes one of all, algoseek, alpaca"):
        rule_named("sip")


def test_without_a_rule_everything_counts():
    assert all_count("anything") == BOTH
