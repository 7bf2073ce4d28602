"""Calendars in files equal built calendars, also after damage to the file."""

import zoneinfo
from importlib.resources import files

import numpy as np
import pytest

from stockpulse.market.calendar_files import read_calendar, write_calendar
from stockpulse.market.calendar_library import calendar_from_library
from stockpulse.market.calendars import trading_calendar

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built():
    return calendar_from_library("XNYS")


@pytest.fixture
def file(tmp_path, built):
    write_calendar(tmp_path, "XNYS", built)
    (path,) = tmp_path.iterdir()
    return path


def same(calendar, other) -> bool:
    columns = ("midnights", "opens", "closes", "traded", "_begins")
    equal = all(np.array_equal(getattr(calendar, column), getattr(other, column)) for column in columns)
    return equal and (calendar.name, calendar.timezone) == (other.name, other.timezone)


@pytest.mark.thorough
def test_a_calendar_comes_back_as_it_was(file, built):
    assert same(read_calendar(file.parent, "XNYS"), built)


def test_a_calendar_without_a_file_is_unknown(tmp_path):
    assert read_calendar(tmp_path, "XNYS") is None


@pytest.mark.thorough
def test_a_file_that_was_cut_counts_as_missing(file):
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert read_calendar(file.parent, "XNYS") is None, size


def test_a_flipped_bit_never_changes_a_calendar(file, built):
    whole = file.read_bytes()
    for at in range(0, len(whole), len(whole) // 50):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        calendar = read_calendar(file.parent, "XNYS")
        assert calendar is None or same(calendar, built), at


@pytest.mark.thorough
def test_a_table_of_other_rules_of_the_time_zone_counts_as_missing(tmp_path, built):
    write_calendar(tmp_path, "XNYS", built)
    rules = files("tzdata").joinpath("zoneinfo")
    zone = tmp_path / "zones" / "America" / "New_York"
    zone.parent.mkdir(parents=True)
    try:
        zone.write_bytes(rules.joinpath("America", "Chicago").read_bytes())
        zoneinfo.reset_tzpath([tmp_path / "zones"])
        assert read_calendar(tmp_path, "XNYS") is None
        write_calendar(tmp_path, "XNYS", built)
        assert same(read_calendar(tmp_path, "XNYS"), built)
        zone.unlink()  # then the rules are those of the package
        assert read_calendar(tmp_path, "XNYS") is None
    finally:
        zoneinfo.reset_tzpath()


def test_a_folder_that_cannot_be_written_leaves_no_file(tmp_path, built):
    (tmp_path / "file").write_text("")
    write_calendar(tmp_path / "file" / "folder", "XNYS", built)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_does_not_lead_out_of_the_folder():
    with pytest.raises(ValueError, match="calendar"):
        trading_calendar("../../etc/passwd")
