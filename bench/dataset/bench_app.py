"""The handler that holds a dataset's rows as a list, in a job process."""

from __future__ import annotations

from typing import Any

from erl_bridge import Bridge

app = Bridge()


@app.handler("hold", run="job")
def hold(payload: Any, context: Any) -> Any:
    rows = list(context.rows(payload["rows"]))
    return len(rows)
