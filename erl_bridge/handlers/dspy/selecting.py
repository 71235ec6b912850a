"""Two modules of the bridge's own that optimizers make: one that shows the nearest demonstrations, one that votes.

Rule of this file: what was learned stays where every module keeps it, in the demonstrations and instructions of its
predictors. So such a program is plain data like any other, and can be optimized further.

DSPy's own KNNFewShot bootstraps anew at every prediction, and its Ensemble keeps its members as objects.
"""

from __future__ import annotations

import zlib
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dspy
from dspy.evaluate.metrics import normalize_text

from ...errors import CallbackError
from ...refusals import invalid, show
from ...terms import Atom
from ...vocabulary import named
from . import client
from .signatures import by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .modules import Module

MAX_MEMBERS = 32  # of an ensemble
MAX_NEAREST = 256  # demonstrations in a prompt
WORDS = "words"
_DIMENSIONS = 1024


def read_vectorizer(value: Any, path: str) -> Atom | str | None:
    """The client's function that a payload names as a vectorizer; None for ours. Raises :class:`InvalidRequest`."""
    if value is None or (isinstance(value, (Atom, str)) and str(value) == WORDS):
        return None
    pairs = by_name(value, path) if isinstance(value, dict) else {}
    if list(pairs) != ["callback"]:
        raise invalid(path, f":{WORDS} or %{{callback: name}}", value)
    return client.read_name(pairs["callback"][1], f"{path}.callback")


def vectorizer_wire(name: Atom | str | None) -> Any:
    """A vectorizer as :func:`read_vectorizer` takes it."""
    return Atom(WORDS) if name is None else named({"callback": name})


class Nearest(dspy.Module):  # type: ignore[misc]
    """A module whose predictors show the ``k`` of their demonstrations that are most like the input."""

    def __init__(self, inner: Any, k: int, vectorizer: Any) -> None:
        super().__init__()
        self.module = inner
        for predictor in inner.predictors():
            predictor.__class__ = _NearestPredict
            predictor.nearest = (k, vectorizer)

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


class _NearestPredict(dspy.Predict):  # type: ignore[misc]
    nearest: tuple[int, Any]

    def forward(self, **kwargs: Any) -> Any:
        k, vectorizer = self.nearest
        demos = kwargs.pop("demos", self.demos)
        if len(demos) > k:
            demos = self._choose(demos, kwargs, k, vectorize(vectorizer))
        return super().forward(demos=demos, **kwargs)

    def _choose(self, demos: Sequence[Any], inputs: dict[str, Any], k: int, vectors: Callable[[list[str]], Any]) -> Any:
        import numpy as np

        names = list(self.signature.input_fields)
        known = [self._text(demo, names) for demo in demos]
        likeness = vectors(known) @ vectors([self._text(inputs, names)])[0]
        # The nearest first, and of equals the one that came first.
        return [demos[index] for index in np.argsort(-likeness, kind="stable")[:k]]

    def _text(self, values: Any, names: list[str]) -> str:
        return "\n".join(str(values[name]) for name in names if name in values)


def vectorize(vectorizer: Any) -> Callable[[list[str]], Any]:
    """Texts to a matrix with a row of length one for each: by a function of the client, or by :func:`_of_words`."""
    import numpy as np

    def by_client(texts: list[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if (vectorizer, text) not in _embedded]
        if new:
            if len(_embedded) > _MOST_EMBEDDED:
                _embedded.clear()
                new = list(dict.fromkeys(texts))
            _embedded.update(zip(((vectorizer, text) for text in new), _ask(vectorizer, new), strict=True))
        return np.stack([_embedded[vectorizer, text] for text in texts])

    return (lambda texts: np.stack([_of_words(text) for text in texts])) if vectorizer is None else by_client


_embedded: dict[tuple[Any, str], Any] = {}  # what functions of the client made, for as long as the process lives
_MOST_EMBEDDED = 65_536


def _ask(name: Atom | str, texts: list[str]) -> list[Any]:
    import numpy as np

    answer = client.ask(name, [texts])
    try:
        rows = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        rows = np.zeros(0)
    if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all():
        client.run_at_work().abort(
            CallbackError(
                f"the client's function {name}, called as the vectorizer: expected a list of {len(texts)} lists of as "
                f"many numbers each, got {show(answer)}"
            )
        )
    return [_unit(row) for row in rows]


@lru_cache(maxsize=16_384)
def _of_words(text: str) -> Any:
    """Words and runs of three letters, each counted at a place that its checksum gives: no weights, no vocabulary."""
    import numpy as np

    words = normalize_text(text).split()
    parts = [*words, *(f"^{word}$"[at : at + 3] for word in words for at in range(len(word)))]
    vector = np.zeros(_DIMENSIONS)
    for part in parts:
        place = zlib.crc32(part.encode())
        vector[place % _DIMENSIONS] += 1.0 if place >> 31 else -1.0
    return _unit(vector)


def _unit(vector: Any) -> Any:
    import numpy as np

    length = np.linalg.norm(vector)
    return vector / length if length else vector


class Ensemble(dspy.Module):  # type: ignore[misc]
    """Modules for one task: the answer is that of the most of them, of equals the one that came first."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self._names = [name for name, _ in parts(module)]
        self._outputs = [field.name for field in module.signature.outputs]
        for name, member in parts(module):
            setattr(self, name, member.build())

    def forward(self, **inputs: Any) -> Any:
        predictions = [getattr(self, name)(**inputs) for name in self._names]
        ballots = [tuple(_plain(prediction[name]) for name in self._outputs) for prediction in predictions]
        return predictions[ballots.index(Counter(ballots).most_common(1)[0][0])]


def parts(module: Module) -> list[tuple[str, Module]]:
    """The members of an ensemble, by the prefix of their predictors' names."""
    return [(f"member_{number}", member) for number, member in enumerate(module.options["members"], start=1)]


def _plain(value: Any) -> str:
    return (normalize_text(value) or value) if isinstance(value, str) else repr(value)
