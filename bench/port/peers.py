"""Programs on a Port that decode each frame and encode it again: `peers.py raw | erlpack | erlang_py | json`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from erl_bridge import Bridge
from erl_bridge.framing import FrameReader, pack

app = Bridge()
LARGE = bytes([255]) * 20_000_000


@app.handler("echo", run="inline")
def echo(payload: object, context: object) -> object:
    return payload


@app.handler("take", run="inline")
def take(payload: object, context: object) -> object:
    return None


@app.handler("give", run="inline")
def give(payload: object, context: object) -> object:
    return LARGE


def codec(name: str) -> Callable[[bytes], bytes]:
    """What makes an answer of a frame."""
    if name == "erlpack":
        import erlpack

        return lambda frame: erlpack.pack(erlpack.unpack(frame))
    if name == "erlang_py":
        import erlang

        return lambda frame: erlang.term_to_binary(erlang.binary_to_term(frame))
    if name == "json":
        import json

        return lambda frame: json.dumps(json.loads(frame)).encode()
    return lambda frame: frame


def main(name: str) -> None:
    answer, reader = codec(name), FrameReader()
    while data := os.read(0, 65536):
        os.write(1, b"".join(pack(answer(frame)) for frame in reader.feed(data) if isinstance(frame, bytes)))


if __name__ == "__main__":
    main(sys.argv[1])
