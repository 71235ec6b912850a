"""The DSPy room: the only place that imports ``dspy``, and only inside job processes and their template."""

from __future__ import annotations

from ... import etf
from ...app import Handler

_JOBS, _EVALUATION, _PREDICT = f"{__name__}.jobs", f"{__name__}.evaluation", f"{__name__}.predict"

HANDLERS = [
    Handler("optimize_signature", f"{_JOBS}:optimize_signature", run="job"),
    Handler("train_model", f"{_JOBS}:train_model", run="job"),
    Handler("evaluate_pipeline", f"{_EVALUATION}:evaluate_pipeline", run="job"),
    Handler("predict", f"{_PREDICT}:predict", run="job", reuse=True),
]

# By name, as users' handlers return them from processes and threads that this room never sees. A dspy.Prediction is one
# too. ``items()`` leaves out what DSPy keeps there for itself.
etf.register("dspy.Example", lambda example: dict(example.items()))


def preload() -> None:
    """Import DSPy and what its jobs need, once, for all processes forked from here; nothing if it is not installed."""
    from .preload import preload as import_all

    try:
        import_all()
    except ModuleNotFoundError:
        return  # the job that needs it will say so to the client
