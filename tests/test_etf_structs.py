"""Elixir's structs and Python's types: both ways, and never at a loss."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erl_bridge import etf
from erl_bridge.etf.structs import MapSet
from erl_bridge.etf.times import PreciseDateTime, PreciseTime, Zone
from erl_bridge.terms import Atom, TermMap, identity

a = Atom
NAMES = ("DateTime", "NaiveDateTime", "Date", "Time", "MapSet", "Range", "Decimal")


def fields_of(value: Any) -> Any:
    """What is sent for a value, as a plain map with strings as keys."""
    fields = etf.decode(etf.encode(value), structs=False)
    return {str(name): field for name, field in fields.items()}


def back(value: Any) -> Any:
    return etf.decode(etf.encode(value))


WARSAW = zoneinfo.ZoneInfo("Europe/Warsaw") if "Europe/Warsaw" in zoneinfo.available_timezones() else None


# -- to Elixir -------------------------------------------------------------------------------------------------


def test_a_date() -> None:
    assert fields_of(date(2024, 2, 29)) == {
        "__struct__": a("Elixir.Date"), "calendar": a("Elixir.Calendar.ISO"), "year": 2024, "month": 2, "day": 29
    }  # fmt: skip


def test_a_time() -> None:
    assert fields_of(time(1, 2, 3, 4)) == {
        "__struct__": a("Elixir.Time"), "calendar": a("Elixir.Calendar.ISO"), "hour": 1, "minute": 2, "second": 3,
        "microsecond": (4, 6),
    }  # fmt: skip


def test_a_naive_datetime() -> None:
    assert fields_of(datetime(2024, 2, 29, 1, 2, 3, 4)) == {
        "__struct__": a("Elixir.NaiveDateTime"), "calendar": a("Elixir.Calendar.ISO"), "year": 2024, "month": 2,
        "day": 29, "hour": 1, "minute": 2, "second": 3, "microsecond": (4, 6),
    }  # fmt: skip


class Broken(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        raise RuntimeError("no idea")

    dst = utcoffset  # type: ignore[assignment]


class Unsure(tzinfo):
    def utcoffset(self, _: Any) -> None:
        return None

    def dst(self, _: Any) -> None:
        return None

    def tzname(self, _: Any) -> None:
        return None


class Nameless(Unsure):
    def utcoffset(self, _: Any) -> timedelta:  # type: ignore[override]
        return timedelta(hours=-3, minutes=-30)


def zone_of(zone: tzinfo) -> tuple[Any, ...]:
    fields = fields_of(datetime(2024, 7, 1, 12, tzinfo=zone))
    assert fields["__struct__"] == a("Elixir.DateTime")
    return tuple(fields[name] for name in ("time_zone", "zone_abbr", "utc_offset", "std_offset"))


@pytest.mark.parametrize(
    ("zone", "fields"),
    [
        (UTC, ("Etc/UTC", "UTC", 0, 0)),
        (timezone(timedelta(0)), ("Etc/UTC", "UTC", 0, 0)),
        (timezone(timedelta(hours=2)), ("UTC+02:00", "UTC+02:00", 7200, 0)),
        (timezone(timedelta(hours=-5, minutes=-30)), ("UTC-05:30", "UTC-05:30", -19800, 0)),
        (timezone(timedelta(hours=2), "CEST"), ("CEST", "CEST", 7200, 0)),
        (Zone("America/New_York", "EDT", -18000, 3600), ("America/New_York", "EDT", -18000, 3600)),
        (Nameless(), ("UTC-03:30", "UTC-03:30", -12600, 0)),
    ],
)
def test_zones(zone: tzinfo, fields: tuple[Any, ...]) -> None:
    assert zone_of(zone) == fields


@pytest.mark.skipif(WARSAW is None, reason="no time zone database")
def test_zones_of_the_time_zone_database() -> None:
    assert WARSAW is not None
    assert zone_of(WARSAW) == ("Europe/Warsaw", "CEST", 3600, 3600)
    assert zone_of(zoneinfo.ZoneInfo("UTC")) == ("Etc/UTC", "UTC", 0, 0)
    winter = datetime(2024, 1, 1, tzinfo=WARSAW)
    assert back(winter) == winter
    assert back(winter).tzinfo == Zone("Europe/Warsaw", "CET", 3600, 0)
    first, second = (datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=WARSAW) for fold in (0, 1))
    assert (back(first).utcoffset(), back(second).utcoffset()) == (timedelta(hours=2), timedelta(hours=1))


def test_a_zone_that_does_not_know_its_offset_makes_a_naive_datetime() -> None:
    assert fields_of(datetime(2024, 1, 1, tzinfo=Unsure()))["__struct__"] == a("Elixir.NaiveDateTime")


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        (Broken(), "cannot encode datetime at term: its time zone failed: RuntimeError: no idea"),
        (
            timezone(timedelta(seconds=1, microseconds=1)),
            "cannot encode datetime at term: offsets of time zones are whole seconds in Elixir",
        ),
    ],
)
def test_zones_that_are_refused(zone: tzinfo, message: str) -> None:
    with pytest.raises(etf.EncodeError) as caught:
        etf.encode(datetime(2024, 1, 1, tzinfo=zone))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "first", "last", "step"),
    [
        (range(3), 0, 2, 1),
        (range(0), 0, -1, 1),
        (range(5, 0, -1), 5, 1, -1),
        (range(1, 10, 3), 1, 9, 3),
        (range(10**30), 0, 10**30 - 1, 1),
    ],
)
def test_ranges(value: range, first: int, last: int, step: int) -> None:
    assert fields_of(value) == {"__struct__": a("Elixir.Range"), "first": first, "last": last, "step": step}
    assert (back(value).start, back(value).stop, back(value).step) == (value.start, value.stop, value.step)


@pytest.mark.parametrize(
    ("text", "sign", "coef", "exp"),
    [
        ("1.50", 1, 150, -2),
        ("-0", -1, 0, 0),
        ("1E+3", 1, 1, 3),
        ("Infinity", 1, a("inf"), 0),
        ("-Infinity", -1, a("inf"), 0),
        ("NaN", 1, a("NaN"), 0),
        ("-NaN", -1, a("NaN"), 0),
    ],
)
def test_decimals(text: str, sign: int, coef: Any, exp: int) -> None:
    assert fields_of(Decimal(text)) == {"__struct__": a("Elixir.Decimal"), "sign": sign, "coef": coef, "exp": exp}
    assert str(back(Decimal(text))) == text


def test_sets() -> None:
    for value in ({1, "a"}, frozenset({1, "a"}), type("Tags", (set,), {})({1, "a"})):
        assert fields_of(value) == {"__struct__": a("Elixir.MapSet"), "map": {1: [], "a": []}}
        assert type(back(value)) is set
        assert back(value) == {1, "a"}
    assert back({frozenset({1})}) == {a("__struct__"): a("Elixir.MapSet"), a("map"): TermMap([({1}, [])])}


def test_the_sets_of_older_elixirs_keep_their_version() -> None:
    old = MapSet({1, 2})
    assert fields_of(old) == {"__struct__": a("Elixir.MapSet"), "map": {1: [], 2: []}, "version": 2}
    assert type(back(old)) is MapSet
    assert isinstance(old, set)
    assert pickle.loads(pickle.dumps(old)) == copy.deepcopy(old) == old == {1, 2}


# -- from Elixir -----------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(
    st.datetimes() | st.datetimes(timezones=st.sampled_from([UTC])),
    st.integers(0, 6),
    st.none() | st.tuples(st.text(), st.text(), st.integers(-86_000, 86_000), st.sampled_from([0, 60, -60])),
)
def test_every_precision_and_zone_survives(value: datetime, precision: int, zone: Any) -> None:
    zone = Zone(*zone) if zone else value.tzinfo
    precise = PreciseDateTime.combine(value, value.time(), zone) if zone else value
    if precision != 6:
        parts = value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond
        precise = PreciseDateTime(*parts, zone, precision=precision)
    again = back(precise)
    assert identity(again) == identity(precise)
    assert etf.encode(again) == etf.encode(precise)
    assert again == precise
    assert getattr(again, "precision", 6) == precision
    assert type(again) is (datetime if precision == 6 else PreciseDateTime)
    assert again.tzinfo == zone


def test_a_precise_time_is_a_time() -> None:
    value = back(PreciseTime(1, 2, 3, 120_000, precision=2))
    assert (type(value), value, value.precision) == (PreciseTime, time(1, 2, 3, 120_000), 2)
    assert identity(value) != identity(time(1, 2, 3, 120_000))
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert (again, again.precision) == (value, 2)
    assert value.replace(microsecond=5).precision == 6


def test_a_precise_datetime_is_a_datetime() -> None:
    value = PreciseDateTime(2024, 1, 1, 2, tzinfo=Zone("X/Y", "XY", 60, 0), precision=0)
    assert value == datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(minutes=1)))
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert (again, again.precision, again.tzinfo) == (value, 0, Zone("X/Y", "XY", 60, 0))
    assert (value + timedelta(microseconds=1)).precision == 6
    assert (value.astimezone(UTC).precision, value.replace(microsecond=5).precision) == (6, 6)
    assert fields_of(value.replace(microsecond=5))["microsecond"] == (5, 6)
    with pytest.raises(AttributeError):
        value.precision = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="the precision of a second's fraction is 0 to 6 digits, not 7"):
        PreciseDateTime(2024, 1, 1, precision=7)


def test_a_zone_shows_its_fields_and_survives_copy_and_pickle() -> None:
    zone = Zone("Europe/Warsaw", "CEST", 3600, 3600)
    assert (repr(zone), str(zone)) == ("Zone('Europe/Warsaw', 'CEST', 3600, 3600)", "Europe/Warsaw")
    assert pickle.loads(pickle.dumps(zone)) == copy.deepcopy(zone) == zone != Zone("Europe/Warsaw", "CET", 3600, 0)
    assert hash(copy.copy(zone)) == hash(zone)
    moment = datetime(2024, 7, 1, 12, tzinfo=zone)
    assert (moment.utcoffset(), moment.dst(), moment.tzname()) == (timedelta(hours=2), timedelta(hours=1), "CEST")
    assert moment.astimezone(UTC).astimezone(zone) == moment


DATE_TIME = {str(k): v for k, v in fields_of(PreciseDateTime(2024, 5, 6, 7, 8, 9, 0, UTC, precision=3)).items()}
DATE, TIME = fields_of(date(2024, 5, 6)), fields_of(time(1))
RANGE, SET, DECIMAL = fields_of(range(3)), fields_of({1}), fields_of(Decimal("1.5"))
ODD_VALUES: list[Any] = [True, None, 1.0, -1, 10**30, "1", b"\xff", a("x"), [], (1,), (0, 7), (10**6, 6), (True, 6)]
LEFT_ALONE = [
    {**fields, name: odd}
    for fields in (DATE_TIME, DATE, TIME, RANGE, DECIMAL, SET)
    for name in fields
    for odd in ODD_VALUES
    if name != "__struct__"
]
LEFT_ALONE += [{**fields, "more": 1} for fields in (DATE_TIME, DATE, TIME, RANGE, DECIMAL, SET)]
LEFT_ALONE += [
    {key: value for key, value in fields.items() if key != name}
    for fields in (DATE_TIME, DATE, TIME, RANGE, DECIMAL, SET)
    for name in fields
]
LEFT_ALONE += [
    {**DATE_TIME, "second": 60}, {**DATE_TIME, "year": 10000}, {**DATE_TIME, "utc_offset": 86400},
    {**DATE_TIME, "utc_offset": -80000, "std_offset": 90000}, {**DATE, "month": 2, "day": 30},
    {**SET, "map": {1: [], 2: True}}, {**SET, "map": {1: []}, "version": 3}, {**SET, "map": {1: []}, "version": 2.0},
    {**DECIMAL, "sign": 0}, {**DECIMAL, "coef": 10**5000}, {**DECIMAL, "exp": -1_000_000},
    {**DECIMAL, "coef": a("inf"), "exp": 1},
]  # fmt: skip


def test_whatever_a_struct_holds_comes_back_the_same() -> None:
    """Most of these are left alone as maps; some become values; none changes."""
    for fields in LEFT_ALONE:
        sent = etf.encode({Atom(name): value for name, value in fields.items()})
        for binaries in ("auto", "bytes"):
            value = etf.decode(sent, binaries=binaries)  # type: ignore[arg-type]
            assert identity(etf.decode(etf.encode(value), structs=False)) == identity(etf.decode(sent, structs=False))


def test_other_structs_are_maps() -> None:
    user = {Atom("__struct__"): Atom("Elixir.User"), Atom("name"): "x"}
    assert back(user) == user
    assert back({Atom("__struct__"): 1}) == {Atom("__struct__"): 1}


def test_struct_values_as_keys_are_never_merged() -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    same_moment = noon.astimezone(timezone(timedelta(hours=1)))
    keys = [noon, same_moment, PreciseDateTime(2024, 1, 1, 12, tzinfo=UTC, precision=0), Decimal("1.0"), Decimal(1), 1]
    keys += [Decimal("NaN"), range(0, 3, 2), range(0, 4, 2)]
    odd = TermMap([(key, index) for index, key in enumerate(keys)])
    assert type(back(odd)) is TermMap
    assert back(odd) == odd
    assert [back(odd)[key] for key in keys] == list(range(len(keys)))
    assert back({noon: 1, Decimal("2"): 2}) == {noon: 1, Decimal("2"): 2}


def test_a_key_that_comes_twice_is_found_among_structs_too() -> None:
    one = etf.encode(Decimal("NaN"))[1:]
    with pytest.raises(etf.DecodeError, match="a map with distinct keys"):
        etf.decode(b"\x83t\0\0\0\2" + one + b"j" + one + b"j")


def test_what_structs_need_is_loaded_when_they_are_met() -> None:
    code = (
        "import sys; from erl_bridge import etf; slow = {'datetime', 'decimal', 'zlib', 're', 'hashlib'}\n"
        "before = slow & set(sys.modules)\n"
        "etf.decode(etf.encode([{'a': {1, 2.5}}, range(3), None, b'x', {(1, 2): 3}]))\n"
        "assert not (slow - before) & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True)


def test_all_structs_are_in_the_examples() -> None:
    sent = {str(fields["__struct__"]) for fields in (DATE_TIME, DATE, TIME, RANGE, DECIMAL, SET)}
    assert sent | {"Elixir.NaiveDateTime"} == {f"Elixir.{name}" for name in NAMES}
