"""The handler that holds a dataset's rows as a list, in a job process."""

from __future__ import annotations

from typing import Any

from erl_bridge import Bridge

app = Bridge()
held: list[Any] = []


@app.handler("hold", run="job")
def hold(payload: Any, context: Any) -> Any:
    held[:] = context.rows(payload["rows"])  # kept: to let go of it is not part of the question
    return len(held)
