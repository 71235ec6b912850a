"""The fast path of a Port: requests that are answered at once go from descriptor to descriptor in compiled code.

Rule of this file: the fast path gives the answers that :class:`~erl_bridge.session.Session` and
:meth:`~erl_bridge.dispatch.Client.handle` give, only sooner. What it does not know it leaves to them, so a bridge
without it (no compiler, another codec) is slower and nothing else.
"""

from __future__ import annotations

from .. import etf
from ..vocabulary import VOCABULARY
from ..wire import port
from .spinner import PREEMPTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..dispatch import Client
    from ..messages import Failure, Reply, Request
    from ..session import Session
    from ._fast_path import FastPath
    from .base import Outbox
    from .port import PortTransport

    class Answer(Protocol):
        """Has a request answered, now or later, with a message if that is there already."""

        def __call__(self, received: Request | Failure, message: Reply | Failure | None = None) -> None: ...


def of(transport: PortTransport, session: Session, client: Client, outbox: Outbox, answer: Answer) -> FastPath | None:
    """The fast path for a client of a Port; None where there is none.

    Its ``read()`` waits for bytes and serves the requests in them, until there are some that are no whole request.
    Those it returns, for :meth:`~erl_bridge.session.Session.receive_data`; and none at the end of the input. A request
    that it does not answer itself it gives to ``answer``.
    """
    if etf.backend != "compiled":
        return None
    try:
        from . import _fast_path
    except ImportError:  # there was no compiler
        return None
    return _fast_path.FastPath(
        fd_in=transport.fd_in,
        fd_out=transport.fd_out,
        max_frame=session.max_frame,
        habit=transport.habit,
        spin_ns=round(transport.habit.limit * 1e9),
        preempted_ns=round(PREEMPTED * 1e9),
        serving=transport.serving,
        writing=outbox.lock,
        client=client,
        handlers=client.dispatcher.at_once,
        in_flight=client.in_flight,
        is_in_flight=client.has,
        parse=port.parse,
        hand_over=answer,
        held=outbox.parts,
        write_held=outbox.flush,
        limits=session.limits,
        vocabulary=VOCABULARY,
    )
