"""An application whose jobs have all the time that they need to end: for tests of what a job does then."""

from typing import Any

from support import DEADLINE

from erl_bridge import Bridge, Context
from erl_bridge.handlers.dspy import in_flight
from erl_bridge.jobs import process

app = Bridge()
in_flight.GRACE = DEADLINE
process.TERM_TO_KILL = DEADLINE


@app.handler("job", run="job")
def job(payload: Any, context: Context) -> Any:
    """There must be one, or else jobs would not load the application."""
