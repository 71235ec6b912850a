"""A small server with the chat API of OpenAI, on loopback: what the tests of both languages ask instead of a provider.

It does what it is told, request by request: answers, streams, refuses, is slow, sends nonsense, drops the connection.
It counts what it was asked and sees when a client goes away.

In Python: ``with OpenAIServer([...]) as server``, ``server.lm``, ``server.calls``. For others:
``python tests/openai_server.py`` prints its port; ``POST /control`` takes ``{"script": [...], "default": {...}}``,
``GET /log`` tells what it was asked, ``GET /wait?calls=3`` or ``?dropped=1`` answers when that has come about.

A step is a map: ``fields`` (values of output fields, put between DSPy's markers) or ``text``; ``delay`` (seconds before
it), ``finish`` (``"length"`` for a truncated answer), ``chunk`` (characters in each piece of a stream), ``cut`` (pieces
after which a stream breaks off); ``status``, ``code``, ``message`` and ``headers`` for a refusal; ``raw`` (a body as it
is); ``drop`` (close without a word); ``hold`` (say nothing until the client is gone). Requests beyond the script get
the ``default``; what it leaves out of the fields that were asked for is made up, a new value for each request.

Rule of this file: nothing of erl_bridge and nothing of DSPy is in it.
"""

from __future__ import annotations

import json
import re
import select
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_WANTED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_PATIENCE = 30.0  # seconds that anything here waits at most
KEY = "very-secret-0815"


class OpenAIServer(ThreadingHTTPServer):
    """The server. It serves from the moment it is made until it is closed."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, script: Iterable[dict[str, Any]] = (), default: dict[str, Any] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Chat)
        self.script = list(script)
        self.default = default or {}
        self.requests: list[dict[str, Any]] = []
        self.dropped = 0  # clients that went away before they had their answer
        self.changed = threading.Condition()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def calls(self) -> int:
        """How many requests there were."""
        return len(self.requests)

    @property
    def base(self) -> str:
        """The ``api_base``."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def lm(self) -> dict[str, Any]:
        """The language model of a payload."""
        return {"model": "openai/gpt-4o-mini", "api_base": self.base, "api_key": KEY}

    def take(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The number of a request and the step for it."""
        with self.changed:
            number = len(self.requests)
            self.requests.append(request)
            step = self.script[number] if number < len(self.script) else self.default
            self.changed.notify_all()
        return number, step

    def note_drop(self) -> None:
        """A client went away."""
        with self.changed:
            self.dropped += 1
            self.changed.notify_all()

    def wait(self, **reached: int) -> bool:
        """Wait until so many ``calls`` or ``dropped`` have come; false when they do not."""
        with self.changed:
            return self.changed.wait_for(
                lambda: all(getattr(self, name) >= number for name, number in reached.items()), _PATIENCE
            )

    def control(self, script: list[dict[str, Any]] | None = None, default: dict[str, Any] | None = None) -> None:
        """Begin anew with another script."""
        with self.changed:
            self.script, self.default = script or [], default or {}
            self.requests.clear()
            self.dropped = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away while it was written to."""

    def __enter__(self) -> OpenAIServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _Chat(BaseHTTPRequestHandler):
    server: OpenAIServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        if path.path == "/wait":
            reached = self.server.wait(**{name: int(number) for name, number in parse_qsl(path.query)})
            self._send(200 if reached else 504, {"reached": reached})
        else:
            server = self.server
            self._send(200, {"calls": server.calls, "dropped": server.dropped, "requests": server.requests})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/control":
            self.server.control(**body)
            self._send(200, {})
            return
        number, step = self.server.take({"key": self.headers["authorization"], **body})
        time.sleep(step.get("delay", 0))
        if step.get("drop"):
            self.close_connection = True
        elif step.get("hold"):
            self._hold()
        elif "raw" in step:
            self._send_bytes(step.get("status", 200), step["raw"].encode(), {})
        elif step.get("status", 200) != 200:
            error = {"message": step.get("message", "no"), "type": "error", "code": step.get("code")}
            self._send(step["status"], {"error": error}, step.get("headers", {}))
        else:
            self._answer(body, number, step)

    def _hold(self) -> None:
        """Wait until the client closes the connection."""
        self.close_connection = True
        if select.select([self.connection], [], [], _PATIENCE)[0] and not self.connection.recv(1):
            self.server.note_drop()

    def _answer(self, body: dict[str, Any], number: int, step: dict[str, Any]) -> None:
        text = step.get("text") or _text(body["messages"], number, step.get("fields", {}))
        finish = step.get("finish", "stop")
        words = sum(len(str(message["content"]).split()) for message in body["messages"])
        usage = {"prompt_tokens": words, "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": str(number), "model": body["model"], "created": 0}
        if body.get("stream"):
            self._stream(head, text, finish, usage, step)
            return
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        self._send(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _stream(
        self, head: dict[str, Any], text: str, finish: str, usage: dict[str, int], step: dict[str, Any]
    ) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        size = step.get("chunk", 7)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        head = {**head, "object": "chat.completion.chunk"}
        for count, piece in enumerate(pieces):
            if count == step.get("cut"):
                return
            self._event({**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        self._event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        self._event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(body).encode(), headers or {})

    def _send_bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None: ...


def _text(messages: list[dict[str, Any]], number: int, fields: dict[str, str]) -> str:
    """An answer between DSPy's markers, with all fields that the last message asks for."""
    wanted = [name for name in _WANTED.findall(str(messages[-1]["content"])) if name != "completed"]
    values = {**{name: f"{name} {number}" for name in wanted}, **fields}
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items()), "[[ ## completed ## ]]"])


if __name__ == "__main__":
    with OpenAIServer(default=json.loads(sys.argv[1]) if sys.argv[1:] else None) as running:
        print(running.server_port, flush=True)
        sys.stdin.read()  # until whoever started it is gone
