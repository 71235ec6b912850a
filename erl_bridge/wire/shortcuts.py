"""What a process sends for a ``GenServer.call`` to one name, found by its bytes, and the answer made of bytes.

These are three frames: it monitors the name, sends to it, and monitors it no more. They differ only in the numbers of
its pid and of the reference, and in what is asked. To find them takes a tenth of the time that it takes to read them.

Rule of this file: what is found here means what it would be read as. Whatever looks any other way is not found, and
goes the long way.
"""

from __future__ import annotations

import re

from .. import etf
from . import capabilities
from .dist import HEADER, MAX_WORDS, NOTHING, VERSION
from .gen import ALIAS, CALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..terms import Atom, Pid, Reference

NEEDS = capabilities.FRAGMENTS | capabilities.SEND_SENDER
SEND, MONITOR, DEMONITOR = 6, 19, 20
SIZE = 3  # the group that is the length of the frame of a call
BEGINNING = b"%c%c\0h\4a" % (VERSION, HEADER)  # of all these frames, behind their length


class Shortcuts:
    """What can be found of the node ``peer``, where ``flags`` are in force, and calls go to ``name``.

    All of ``NEEDS`` must be among the flags.

    ``find(data, start)`` finds what often comes in a row: that a process monitors no more what it did for its last
    call, that it monitors, and the head of a call. Each may be missing, so all may be. The groups are: what the first
    two have in common, once for each; of a call the length of its frame, and the caller, the tag and the alias in that,
    as external terms without version bytes. The request begins where what is found ends, and ends with its frame.
    """

    def __init__(self, peer: Atom, name: Atom, flags: int) -> None:
        node, quote = peer.external, re.escape
        reference = {words: b"Z\0%c" % words + node for words in range(1, MAX_WORDS + 1)}
        references = b"|".join(quote(head) + b".{%d}" % (4 + 4 * words) for words, head in reference.items())
        pid = quote(b"X" + node) + b".{%d}" % _NUMBERS_OF_PID
        watch = b"(%b%b(?:%b))" % (pid, quote(name.external), references)
        reference_at = len(node) + 1 + _NUMBERS_OF_PID + len(name.external)
        rest = len(BEGINNING) + 1 + reference_at + len(reference[1]) + 4

        def watches(op: int) -> bytes:
            """A frame has the length that goes with the words of its reference."""
            heads = (
                quote((rest + 4 * words).to_bytes(4) + BEGINNING + bytes((op,)))
                + b"(?=.{%d}%b)" % (reference_at, quote(head))
                for words, head in reference.items()
            )
            return b"(?:(?:%b)%b)?" % (b"|".join(heads), watch)

        target = quote(NOTHING.external + name.external + b"h\3" + CALL.external + b"h\2")
        tag = b"(%b(%b))" % (quote(b"l\0\0\0\1" + ALIAS.external), references)
        call = b"(?:(....)%b%b%b(%b)%b)?" % (quote(BEGINNING + bytes((SEND,))), pid, target, pid, tag)
        self.find = re.compile(watches(DEMONITOR) + watches(MONITOR) + call, re.DOTALL).match
        self.answers = _answer_head(flags)

    def answer_head(self, sender: bytes, caller: bytes, tag: bytes, alias: bytes) -> bytes:
        """The answer to a call up to what is answered: a control term, and the beginning of ``{tag, answer}``."""
        head, to_alias = self.answers
        return b"%c%b%b%bh\2%b" % (VERSION, head, sender, alias if to_alias else caller, tag)


_NUMBERS_OF_PID = 12  # bytes


def _answer_head(flags: int) -> tuple[bytes, bool]:
    """What is before the sender in the control term of an answer, no version byte, and whether that goes to an alias.

    The operations are those of :func:`erl_bridge.wire.dist.control` for ``send_alias``.
    """
    if flags & capabilities.ALTACT_SIG:
        return b"h\4a\x25a\4", True
    if flags & capabilities.ALIAS:
        return b"h\3a\x21", True
    return b"h\3a\x16", False


def watch_of(watched: bytes) -> tuple[Pid, Any, Reference]:
    """Who monitors, what it named, and by which reference, in what the frames that say so have in common."""
    who, at = etf.decode_prefix(watched, 0, version=False)
    target, at = etf.decode_prefix(watched, at, version=False)
    return who, target, etf.decode_prefix(watched, at, version=False)[0]
