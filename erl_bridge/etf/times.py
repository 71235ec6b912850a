"""Elixir's ``DateTime``, ``NaiveDateTime``, ``Date`` and ``Time``, and Python's ``datetime``, ``date`` and ``time``.

Rule: see ``structs``. Two things that Elixir's structs hold have no place in Python's types, so subclasses keep them:
how many digits of the second's fraction count (:class:`PreciseDateTime`, :class:`PreciseTime`, where it is not the six
that Python always has), and a time zone's four fields (:class:`Zone`, where it is not UTC).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

from ..terms import Atom
from .structs import STRUCT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, SupportsIndex

    from .structs import Fields, Reader

DATE_TIME, NAIVE_DATE_TIME = Atom("Elixir.DateTime"), Atom("Elixir.NaiveDateTime")
DATE, TIME = Atom("Elixir.Date"), Atom("Elixir.Time")
CALENDAR, ISO = Atom("calendar"), Atom("Elixir.Calendar.ISO")
YEAR, MONTH, DAY = Atom("year"), Atom("month"), Atom("day")
HOUR, MINUTE, SECOND, MICROSECOND = Atom("hour"), Atom("minute"), Atom("second"), Atom("microsecond")
TIME_ZONE, ZONE_ABBR = Atom("time_zone"), Atom("zone_abbr")
UTC_OFFSET, STD_OFFSET = Atom("utc_offset"), Atom("std_offset")

_SECONDS_PER_DAY = 86_400
_PYTHON_PRECISION = 6


# -- what Python's types do not hold ---------------------------------------------------------------------------


class PreciseDateTime(datetime):
    """A ``datetime`` of which ``precision`` (0 to 5) digits of the second's fraction count, as in Elixir.

    What arithmetic and ``replace`` make of it has precision 6, as every ``datetime`` has.

    >>> PreciseDateTime(2024, 5, 6, 7, 8, 9, precision=0).precision
    0
    """

    __slots__ = ("_precision",)
    _precision: int

    def __new__(cls, *args: Any, precision: int = _PYTHON_PRECISION, **kwargs: Any) -> Self:
        value = super().__new__(cls, *args, **kwargs)
        value._precision = _checked(precision)
        return value

    @property
    def precision(self) -> int:
        """How many digits of the second's fraction count."""
        return getattr(self, "_precision", _PYTHON_PRECISION)  # ``replace`` makes values without ``__new__``

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _restore, (self.precision, *super().__reduce_ex__(protocol)[:2])


class PreciseTime(time):
    """A ``time`` of which ``precision`` (0 to 5) digits of the second's fraction count, as in Elixir.

    >>> PreciseTime(7, 8, 9, 120_000, precision=2).precision
    2
    """

    __slots__ = ("_precision",)
    _precision: int

    def __new__(cls, *args: Any, precision: int = _PYTHON_PRECISION, **kwargs: Any) -> Self:
        value = super().__new__(cls, *args, **kwargs)
        value._precision = _checked(precision)
        return value

    @property
    def precision(self) -> int:
        """How many digits of the second's fraction count."""
        return getattr(self, "_precision", _PYTHON_PRECISION)  # ``replace`` makes values without ``__new__``

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _restore, (self.precision, *super().__reduce_ex__(protocol)[:2])


def _checked(precision: int) -> int:
    if type(precision) is not int or not 0 <= precision <= _PYTHON_PRECISION:
        raise ValueError(f"the precision of a second's fraction is 0 to {_PYTHON_PRECISION} digits, not {precision!r}")
    return precision


def _restore(precision: int, make: Callable[..., Any], state: tuple[Any, ...]) -> Any:
    value = make(*state)
    value._precision = precision
    return value


class Zone(tzinfo):
    """The time zone of one Elixir ``DateTime``: its name, abbreviation and the two offsets, in seconds.

    It holds for that moment. Arithmetic that crosses a change of the clocks needs ``zoneinfo.ZoneInfo(zone.name)``.

    >>> datetime(2000, 7, 29, tzinfo=Zone("Europe/Warsaw", "CEST", 3600, 3600)).isoformat()
    '2000-07-29T00:00:00+02:00'
    """

    __slots__ = ("abbreviation", "name", "std_offset", "utc_offset")

    def __init__(self, name: str, abbreviation: str, utc_offset: int, std_offset: int) -> None:
        self.name = name
        self.abbreviation = abbreviation
        self.utc_offset = utc_offset
        self.std_offset = std_offset

    def fields(self) -> tuple[str, str, int, int]:
        """Name, abbreviation, offset of the zone from UTC, and what the summer adds to it."""
        return self.name, self.abbreviation, self.utc_offset, self.std_offset

    def utcoffset(self, moment: datetime | None) -> timedelta:
        """How far the clocks are ahead of UTC."""
        return timedelta(seconds=self.utc_offset + self.std_offset)

    def dst(self, moment: datetime | None) -> timedelta:
        """How much of that is summer time."""
        return timedelta(seconds=self.std_offset)

    def tzname(self, moment: datetime | None) -> str:
        """The zone's abbreviation."""
        return self.abbreviation

    def __eq__(self, other: object) -> bool:
        return self.fields() == other.fields() if isinstance(other, Zone) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.fields())

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Zone{self.fields()!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Zone, self.fields()


# -- from fields -----------------------------------------------------------------------------------------------

_DATE_PART = (YEAR, MONTH, DAY)
_TIME_PART = (HOUR, MINUTE, SECOND)
_FIELDS_OF_DATE = {STRUCT, CALENDAR, *_DATE_PART}
_FIELDS_OF_TIME = {STRUCT, CALENDAR, *_TIME_PART, MICROSECOND}
_FIELDS_OF_NAIVE = _FIELDS_OF_DATE | _FIELDS_OF_TIME
_FIELDS_OF_DATE_TIME = _FIELDS_OF_NAIVE | {TIME_ZONE, ZONE_ABBR, UTC_OFFSET, STD_OFFSET}


def _reader(names: set[Atom], read: Reader) -> Reader:
    """A reader for a struct with exactly these fields in the ISO calendar. Python checks that day and time exist."""

    def read_checked(fields: Fields) -> Any:
        if fields.keys() != names or fields[CALENDAR] is not ISO:
            return None
        try:
            return read(fields)
        except (ValueError, OverflowError):
            return None

    return read_checked


def _integers(fields: Fields, names: tuple[Atom, ...]) -> list[int]:
    values = [fields[name] for name in names]
    if any(type(value) is not int for value in values):
        raise ValueError("not integers")
    return values


def _fraction(fields: Fields) -> tuple[int, int]:
    fraction = fields[MICROSECOND]
    if type(fraction) is not tuple or [type(part) for part in fraction] != [int, int] or not 0 <= fraction[1] <= 6:
        raise ValueError("not a microsecond and its precision")
    return fraction


def _read_date(fields: Fields) -> date:
    return date(*_integers(fields, _DATE_PART))


def _read_time(fields: Fields) -> time:
    microsecond, precision = _fraction(fields)
    parts = _integers(fields, _TIME_PART)
    if precision == _PYTHON_PRECISION:
        return time(*parts, microsecond)  # type: ignore[call-arg, arg-type]
    return PreciseTime(*parts, microsecond, precision=precision)


def _read_naive(fields: Fields, zone: tzinfo | None = None) -> datetime:
    microsecond, precision = _fraction(fields)
    parts = _integers(fields, _DATE_PART + _TIME_PART)
    if precision == _PYTHON_PRECISION:
        return datetime(*parts, microsecond, zone)  # type: ignore[call-arg, arg-type]
    return PreciseDateTime(*parts, microsecond, zone, precision=precision)


def _read_date_time(fields: Fields) -> datetime:
    utc_offset, std_offset = _integers(fields, (UTC_OFFSET, STD_OFFSET))
    if abs(utc_offset + std_offset) >= _SECONDS_PER_DAY or abs(std_offset) >= _SECONDS_PER_DAY:
        raise ValueError("not an offset that Python allows")
    zone = Zone(_text(fields[TIME_ZONE]), _text(fields[ZONE_ABBR]), utc_offset, std_offset)
    return _read_naive(fields, UTC if zone.fields() == _UTC else zone)


def _text(value: Any) -> str:
    if type(value) in (bytes, memoryview):
        return str(value, "utf-8")
    if type(value) is not str:
        raise ValueError("not a text")
    return value


_UTC = ("Etc/UTC", "UTC", 0, 0)


# -- to fields -------------------------------------------------------------------------------------------------


def _fields_of_date(value: date) -> Fields:
    return {STRUCT: DATE, CALENDAR: ISO, YEAR: value.year, MONTH: value.month, DAY: value.day}


def _fields_of_time(value: time) -> Fields:
    if value.tzinfo is not None:
        raise ValueError("Elixir's Time has no zone")
    return {STRUCT: TIME, CALENDAR: ISO, **_clock(value)}


def _fields_of_datetime(value: datetime) -> Fields:
    fields = {**_fields_of_date(value), **_clock(value), STRUCT: NAIVE_DATE_TIME}
    zone = value.tzinfo
    if zone is None:
        return fields
    known = zone.fields() if type(zone) is Zone else _UTC if zone is UTC else _fields_of_zone(value, zone)
    if known is None:
        return fields
    return {
        **fields,
        STRUCT: DATE_TIME,
        **dict(zip((TIME_ZONE, ZONE_ABBR, UTC_OFFSET, STD_OFFSET), known, strict=True)),
    }


def _clock(value: time | datetime) -> Fields:
    precision = value.precision if isinstance(value, (PreciseTime, PreciseDateTime)) else _PYTHON_PRECISION
    fraction = value.microsecond, precision
    return {HOUR: value.hour, MINUTE: value.minute, SECOND: value.second, MICROSECOND: fraction}


def _fields_of_zone(value: datetime, zone: tzinfo) -> tuple[str, str, int, int] | None:
    """A zone's fields at a moment, or None for a zone that does not know its offset: to Python that is a naive time."""
    try:
        offset, summer, abbreviation = value.utcoffset(), value.dst() or timedelta(0), value.tzname()
    except Exception as error:
        raise ValueError(f"its time zone failed: {type(error).__name__}: {error}") from error
    if offset is None:
        return None
    if offset.microseconds or summer.microseconds:
        raise ValueError("offsets of time zones are whole seconds in Elixir")
    total, std_offset = (part.days * _SECONDS_PER_DAY + part.seconds for part in (offset, summer))
    abbreviation = abbreviation or timezone(offset).tzname(None)
    name = getattr(zone, "key", None) or getattr(zone, "zone", None) or abbreviation  # zoneinfo's, pytz's, none
    if not total and name in ("UTC", "Etc/UTC"):
        return _UTC
    return str(name), abbreviation, total - std_offset, std_offset


READERS: dict[Atom, Reader] = {
    DATE: _reader(_FIELDS_OF_DATE, _read_date),
    TIME: _reader(_FIELDS_OF_TIME, _read_time),
    NAIVE_DATE_TIME: _reader(_FIELDS_OF_NAIVE, _read_naive),
    DATE_TIME: _reader(_FIELDS_OF_DATE_TIME, _read_date_time),
}
STAND_INS: dict[type, Callable[[Any], Fields]] = {
    date: _fields_of_date,
    time: _fields_of_time,
    datetime: _fields_of_datetime,
}
