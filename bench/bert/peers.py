"""Servers that answer each frame, with a thread for each connection: `peers.py raw | erlang_py`.

`raw` sends it back as it is. `erlang_py` is about the least that a server of BERT-RPC in Python does: it decodes the
call, looks up the function by name, calls it, and encodes its result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


def raw(frame: bytes) -> bytes:
    return frame


def erlang_py(frame: bytes) -> bytes:
    import erlang

    _call, module, function, args = erlang.binary_to_term(frame)
    result = FUNCTIONS[module.value, function.value](*args)
    answer: bytes = erlang.term_to_binary((erlang.OtpErlangAtom("reply"), (erlang.OtpErlangAtom("ok"), result)))
    return answer


FUNCTIONS: dict[tuple[bytes, bytes], Callable[[Any], Any]] = {(b"system", b"ping"): lambda payload: payload}
ANSWERS = {"raw": raw, "erlang_py": erlang_py}


class Conversation(StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        answer_to = ANSWERS[sys.argv[1]]
        while header := self.rfile.read(4):
            answer = answer_to(self.rfile.read(int.from_bytes(header, "big")))
            self.wfile.write(len(answer).to_bytes(4, "big") + answer)


class Server(ThreadingTCPServer):
    request_queue_size = 1024
    daemon_threads = True


def main() -> None:
    with Server(("127.0.0.1", 0), Conversation) as server:
        print("ready tcp", *server.server_address, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
