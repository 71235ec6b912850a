"""Does once, in the template process, what every job would otherwise do again: imports DSPy and runs each part of it.

Rule of this file: it leaves one thread, no socket and no file behind and prints nothing to standard output, so that a
fork of the process is a job that can begin at once.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from functools import lru_cache
from typing import Any

from ... import logs
from ...context import Context

# Read when the packages are imported. Prices of models come from the package and not from the network.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


# They warn of what optimizers of DSPy do to each other; inputs of a client are checked before.
_TALKATIVE = ("dspy.predict.predict", "dspy.teleprompt.bettertogether")


def preload() -> None:
    """Import and rehearse everything that a job of this room needs.

    Raises ``ModuleNotFoundError`` when DSPy is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _quieten_progress_bars()
    import dspy

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    _quieten_logs()
    _keep_type_adapters()
    # A field named "json" hides a method that nothing here calls. The names that do harm are refused.
    warnings.filterwarnings("ignore", message='Field name ".*" in ".*" shadows an attribute', category=UserWarning)
    _rehearse()


def _quieten_progress_bars() -> None:
    import tqdm  # type: ignore[import-untyped]

    tqdm.tqdm.monitor_interval = 0  # no thread that watches the bars
    tqdm.tqdm.set_lock(threading.RLock())  # nor a lock between processes: on Python 3.14 that takes one more process
    start = tqdm.tqdm.__init__

    def start_disabled(bar: Any, *args: Any, **options: Any) -> None:
        start(bar, *args, **{**options, "disable": True})  # optimizers of DSPy say themselves that they want one

    tqdm.tqdm.__init__ = start_disabled


def _quieten_logs() -> None:
    from .redact import RedactingFilter

    logger = logging.getLogger("dspy")
    logger.setLevel(logging.WARNING)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logger.handlers:
        handler.addFilter(RedactingFilter())
        if logs.wanted():
            handler.setFormatter(logs.formatter())


def _keep_type_adapters() -> None:
    """DSPy has pydantic make an adapter anew for the type of every value in a prompt: a tenth of a prediction."""
    from dspy.adapters import utils

    make = utils.TypeAdapter
    kept = lru_cache(maxsize=256)(make)

    def adapter_of(annotation: Any) -> Any:  # of other annotations some are equal that are not the same
        return kept(annotation) if isinstance(annotation, type) else make(annotation)

    utils.TypeAdapter = adapter_of


def _rehearse() -> None:
    """Run the requests once, small, so that what is imported or built at first use is there."""
    from dspy.clients import model_metadata

    from . import jobs, predict

    model_metadata.source_info()
    context = Context(_Nowhere(), request_type="rehearsal")
    task: dict[Any, Any] = {"signature": "question -> answer: Literal['yes', 'no']", "lm": "local/nearest-demo"}
    row = {"question": "Is it?", "answer": "yes"}
    predict.predict({**task, "inputs": {"question": "Is it?"}}, context)
    jobs.optimize_signature({**task, "module": "chain_of_thought", "training_data": [row, row]}, context)


class _Nowhere:
    """An outlet that leads nowhere."""

    def event(self, event: dict[Any, Any]) -> None: ...

    def call(self, call_id: int, name: Any, args: list[Any]) -> None: ...

    def checkpoint(self, best: Any) -> None: ...

    def allow(self, atoms: Any) -> None: ...

    def on_node(self, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None: ...
