"""In the bridge process: runs handlers in job processes, new ones or such as were left for the next of their kind.

Rule of this file: whatever becomes of a job process, the request it worked for gets its answer, and nobody else's does.
"""

from __future__ import annotations

import threading
import time

from ..errors import Overloaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..dispatch import Work
    from ..timers import Timers
    from .process import JobProcess, TemplateProcess

_MAX_IDLE = 64  # processes kept for jobs that leave theirs for the next
_KEPT_IDLE = 4  # of them are kept for ever, the others for so many seconds without work
_IDLE_LIMIT = 10.0


class JobRunner:
    """Runs handlers in job processes.

    ``app`` names the user's application, if it has job handlers. ``memory`` bounds what a job may map, in bytes; zero
    is no limit. Without ``dspy`` the template does not import it and there are no DSPy handlers.
    """

    def __init__(self, timers: Timers, *, app: str = "", memory: int = 0, dspy: bool = True) -> None:
        self._timers = timers
        self._template_arguments = [app, str(memory), "dspy" if dspy else "bare"]
        self._lock = threading.Lock()
        self._template: TemplateProcess | None = None
        self._idle: list[tuple[float, JobProcess]] = []  # since when; the last one is taken first
        self._tidying = False
        self._last = 0
        self._closed = False

    def start(self) -> None:
        """Start the template process now, so that the first job need not wait for its imports."""
        with self._lock:
            self._living_template()

    def run(self, work: Work) -> Any:
        """Do ``work`` in a job process and return its result; raises what it raised."""
        process = self._take(work.handler.reuse)
        work.attach(stop=process.stop, answer=process.answer)
        try:
            result = process.perform(work)
        except BaseException:
            process.close()
            raise
        if work.detach() and work.handler.reuse:
            self._leave(process)
        else:
            process.close()
        return result

    def close(self) -> None:
        """End every job process and the template."""
        with self._lock:
            self._closed = True
            template, self._template = self._template, None
        if template is not None:
            template.close()

    def _take(self, reuse: bool) -> JobProcess:
        with self._lock:
            while reuse and self._idle:
                _, process = self._idle.pop()
                if not process.ended.is_set():
                    return process
                process.close()
            self._last += 1
            try:
                return self._living_template().fork(self._last, self._timers)
            except OSError as error:
                raise Overloaded(f"no job process could be started: {error}", retry_after_ms=1000) from error

    def _leave(self, process: JobProcess) -> None:
        """Keep a process that has done its job for the next one."""
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append((time.monotonic(), process))
                self._tidy_later()
                return
        process.close()

    def _tidy_later(self) -> None:
        if len(self._idle) > _KEPT_IDLE and not self._tidying:
            self._tidying = True
            self._timers.call_at(self._idle[0][0] + _IDLE_LIMIT, self._tidy)

    def _tidy(self) -> None:
        """Let go of processes that nobody has needed for a while."""
        with self._lock:
            oldest = time.monotonic() - _IDLE_LIMIT
            unused = sum(since <= oldest for since, _ in self._idle)
            going = self._idle[: max(0, min(unused, len(self._idle) - _KEPT_IDLE))]
            del self._idle[: len(going)]
            self._tidying = False
            self._tidy_later()
        for _, process in going:
            process.close()

    def _living_template(self) -> TemplateProcess:
        if self._closed:
            raise Overloaded("the server is shutting down and takes no new requests")
        if self._template is None or self._template.gone:
            from .process import TemplateProcess  # imports socket, 10 ms, too slow to do before hello

            self._template = TemplateProcess(self._template_arguments)
        return self._template
