"""Dates and times, and DSPy's own types: images, audio, files, code, the conversation so far.

Rule of this file: a value is plain data on the client's side, and nothing is fetched or read from a disk for it: an
image that is a URL goes to the model's provider as that URL.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from ...terms import Atom
from ...vocabulary import named
from .field_types import Misfit, Plain, at_step, plain_data

if TYPE_CHECKING:
    from collections.abc import Callable

# -- dates and times: structs of Elixir's, or text as ISO 8601 writes them ----------------------------------------


def _date(value: Any) -> Any:
    return _of_text(value, date, date.fromisoformat, other=datetime)


def _time(value: Any) -> Any:
    return _of_text(value, time, time.fromisoformat)


def _datetime(value: Any) -> Any:
    return _of_text(value, datetime, _datetime_of_text)


def _of_text(value: Any, kind: Any, parse: Callable[[str], Any], other: Any = ()) -> Any:
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError:
            raise TypeError from None
    if isinstance(value, kind) and not isinstance(value, other):
        return value
    raise TypeError


def _datetime_of_text(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z


DATE = Plain("date", date, _date)
TIME = Plain("time", time, _time)
DATETIME = Plain("datetime", datetime, _datetime)


# -- media: what a model is shown, as text or as bytes with what they are -------------------------------------------


@dataclass(frozen=True, slots=True)
class InputOnly:
    """A type that only inputs have: ``of`` names the class of DSPy, ``make`` and ``show`` go between it and data."""

    name: str
    of: str
    expected: str
    make: Callable[[Any, Any], Any]
    show: Callable[[Any], Any]

    def __str__(self) -> str:
        return self.of

    @property
    def annotation(self) -> Any:
        import dspy

        return getattr(dspy, self.of)

    @property
    def wire(self) -> Any:
        return Atom(self.name)

    def read(self, value: Any) -> Any:
        try:
            return self.make(self.annotation, value)
        except (KeyError, TypeError, ValueError):
            raise Misfit(self.expected, value) from None

    def write(self, value: Any) -> Any:
        return self.show(value if isinstance(value, self.annotation) else self.read(value))


_MIME = re.compile(r"[a-z]+/[A-Za-z0-9.+-]+")


def _image(image: Any, value: Any) -> Any:
    return image(value if isinstance(value, str) else _data_uri(_by_text(value), "type"))


def _audio(audio: Any, value: Any) -> Any:
    if isinstance(value, str):
        return audio(value)
    data, form = _data_and(_by_text(value), "format")
    return audio(data=data, audio_format=form)


def _file(file: Any, value: Any) -> Any:
    given = _by_text(value)
    if set(given) == {"file_id"}:
        return file(file_id=str(given["file_id"]))
    return file(file_data=_data_uri(given, "type"))


def _show_file(file: Any) -> Any:
    if file.file_id is not None:
        return named({"file_id": file.file_id})
    kind, _, data = file.file_data.removeprefix("data:").partition(";base64,")
    return named({"base64": data, "type": kind})


def _by_text(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return {str(key): item for key, item in value.items()}


def _data_uri(given: dict[str, Any], kind_key: str) -> str:
    data, kind = _data_and(given, kind_key)
    if not _MIME.fullmatch(kind):
        raise ValueError
    return f"data:{kind};base64,{data}"


def _data_and(given: dict[str, Any], kind_key: str) -> tuple[str, str]:
    """The bytes under ``data``, or what is under ``base64`` already, in Base64; and what they are."""
    if len(given) != 2 or not isinstance(given.get(kind_key), (Atom, str)):
        raise TypeError
    kind, data = str(given[kind_key]), given.get("data")
    if data is None:
        base64.b64decode(given["base64"], validate=True)  # raises ValueError for what is none
        return str(given["base64"]), kind
    raw = data.encode() if isinstance(data, str) else bytes(memoryview(data))
    return base64.b64encode(raw).decode(), kind


IMAGE = InputOnly(
    "image", "Image", "an image: a URL as text, or a map of data and type", _image, lambda image: image.url
)
AUDIO = InputOnly(
    "audio",
    "Audio",
    "audio: a data URI as text, or a map of data and format",
    _audio,
    lambda audio: f"data:audio/{audio.audio_format};base64,{audio.data}",
)
FILE = InputOnly("file", "File", "a file: a map of data and type, or of file_id", _file, _show_file)


# -- a conversation, code --------------------------------------------------------------------------------------------


def _messages(history: Any, value: Any) -> Any:
    if isinstance(value, history):
        return value
    if not isinstance(value, list):
        raise TypeError
    return history(messages=[at_step(f"[{index}]", _message, one) for index, one in enumerate(value)])


def _message(value: Any) -> Any:
    if not isinstance(value, dict):
        raise Misfit("a map", value)
    return plain_data(value)


# A conversation so far: maps with fields of the signature, the oldest first.
MESSAGES = InputOnly(
    "history",
    "History",
    "a list of maps",
    _messages,
    lambda history: plain_data(history.model_dump(mode="json")["messages"]),
)


@dataclass(frozen=True, slots=True)
class CodeIn:
    """Code in a programming language: text, without the fences that models put around it."""

    language: str

    def __str__(self) -> str:
        return f"Code['{self.language}']"

    @property
    def annotation(self) -> Any:
        import dspy

        return dspy.Code[self.language]

    @property
    def wire(self) -> Any:
        return Atom("code"), self.language

    @property
    def expected(self) -> str:
        return f"text in {self.language}"

    def read(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise Misfit(self.expected, value)
        return self.annotation(code=value)

    def write(self, value: Any) -> Any:
        return str(value.code) if hasattr(value, "code") else self.read(value).code
