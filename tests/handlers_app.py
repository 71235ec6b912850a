"""Handlers that the tests serve: each does one thing that a bridge must be able to bear."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import threading
import time
from typing import Any

import msgspec

from erl_bridge import Atom, Bridge, Context

app = Bridge()
release = threading.Event()


def both(name: str) -> Any:
    """Register a function twice: ``name_thread`` and ``name_job``."""

    def register(function: Any) -> Any:
        for run in ("thread", "job"):
            app.handler(f"{name}_{run}", run=run)(function)
        return function

    return register


@both("echo")
def echo(payload: Any, context: Context) -> Any:
    return payload


@app.handler("echo_inline", run="inline")
def echo_inline(payload: Any, context: Context) -> Any:
    return payload


@app.handler("large_inline", run="inline")
def large_inline(payload: Any, context: Context) -> Any:
    return b"\xff" * payload[Atom("bytes")]


@app.handler("busy_inline", run="inline")
def busy_inline(payload: Any, context: Context) -> Any:
    """Keep the thread that reads at work, which gives the interpreter lock away now and then."""
    until = time.monotonic() + payload["seconds"]
    while time.monotonic() < until:
        pass


@app.handler("call_inline", run="inline")
def call_inline(payload: Any, context: Context) -> Any:
    return context.call("f", [])


class Point(msgspec.Struct):
    x: int
    name: str = "p"


@app.handler("point", schema=Point)
def point(payload: Point, context: Context) -> Any:
    return {"x": payload.x, "name": payload.name}


@both("fail")
def fail(payload: Any, context: Context) -> Any:
    raise ValueError("no such thing")


@both("import")
def needs_package(payload: Any, context: Context) -> Any:
    import a_package_that_is_not_there  # type: ignore[import-not-found]

    return a_package_that_is_not_there


@both("unsendable")
def unsendable(payload: Any, context: Context) -> Any:
    return {"metrics": {"score": float("nan")}}


@dataclasses.dataclass
class Report:
    name: str
    scores: Any
    best: Point | None = None


@both("report")
def report(payload: Any, context: Context) -> Any:
    import numpy

    return Report("r", numpy.array(payload["scores"]).reshape(2, -1), Point(1))


@both("bad_report")
def bad_report(payload: Any, context: Context) -> Any:
    import numpy

    return {"reports": [Report("r", numpy.array([[1.0, 2.0], [3.0, float("nan")]]))]}


@both("invent_atom")
def invent_atom(payload: Any, context: Context) -> Any:
    return Atom("an_atom_nobody_sent")


@both("print")
def printing(payload: Any, context: Context) -> Any:
    print("a stray print")
    os.write(1, b"a stray write\n")
    os.system("echo a stray child")
    return "printed"


@both("events")
def events(payload: Any, context: Context) -> Any:
    for i in range(payload["n"]):
        context.progress(trial=i, seed=str(i))
    context.stream(text="t")
    context.log("info", "done")
    return "done"


@both("ask")
def ask(payload: Any, context: Context) -> Any:
    return context.call("double", [payload["n"]])


@both("node_call")
def node_call(payload: Any, context: Context) -> Any:
    timeout = payload.get("timeout_ms")
    return context.node.call(payload["to"], payload["message"], timeout and timeout / 1000)


@both("node_send")
def node_send(payload: Any, context: Context) -> Any:
    context.node.send(payload["to"], payload["message"])
    return "sent"


@both("ask_in_pieces")
def ask_in_pieces(payload: Any, context: Context) -> Any:
    pieces: list[Any] = []
    whole = context.call("double", [payload["n"]], on_piece=pieces.append)
    return [pieces, whole]


@both("ask_many")
def ask_many(payload: Any, context: Context) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: context.call("double", [n]), range(payload["n"])))


@both("hang")
def hang(payload: Any, context: Context) -> Any:
    """Tell the process id and a best result, then wait until stopped."""
    context.checkpoint({"score": 0.5})
    context.progress(os_pid=os.getpid())
    context.sleep(threading.TIMEOUT_MAX)


@app.handler("stuck", run="job")
def stuck(payload: Any, context: Context) -> Any:
    """Hold the interpreter lock for ever, in native code that no signal handler can interrupt."""
    context.progress(os_pid=os.getpid())
    ctypes.PyDLL(None).pause()
    while True:
        ctypes.PyDLL(None).sleep(3600)


@app.handler("swallow", run="job")
def swallow(payload: Any, context: Context) -> Any:
    """Catch everything, as bad code does."""
    context.progress(os_pid=os.getpid())
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            continue


@app.handler("segfault", run="job")
def segfault(payload: Any, context: Context) -> Any:
    context.checkpoint("nearly done")
    ctypes.string_at(0)


@app.handler("exit", run="job")
def exit_at_once(payload: Any, context: Context) -> Any:
    os._exit(3)


@app.handler("allocate", run="job")
def allocate(payload: Any, context: Context) -> Any:
    return len(bytearray(payload["bytes"]))


@app.handler("os_pid", run="job")
def os_pid(payload: Any, context: Context) -> Any:
    return os.getpid()


@app.handler("os_pid_reuse", run="job", reuse=True)
def os_pid_reuse(payload: Any, context: Context) -> Any:
    if payload:
        raise ValueError("asked to")
    return os.getpid()


_left: list[Any] = []


@app.handler("leave_reuse", run="job", reuse=True)
def leave_reuse(payload: Any, context: Context) -> Any:
    """Leave a thread behind; the next request has it call the client, and says what came of that."""
    if not _left:
        go = threading.Event()
        came: list[str] = []

        def late() -> None:
            go.wait()
            try:
                context.call("late", [])
            except BaseException as error:
                came.append(type(error).__name__)

        thread = threading.Thread(target=late)
        thread.start()
        _left.extend((go, thread, came))
        return "left"
    go, thread, came = _left
    go.set()
    thread.join()
    return came


@app.handler("ask_reuse", run="job", reuse=True)
def ask_reuse(payload: Any, context: Context) -> Any:
    return [os.getpid(), payload["text"], [context.call("double", [n]) for n in range(payload["calls"])]]


@app.handler("remaining", run="job")
def remaining(payload: Any, context: Context) -> Any:
    return context.remaining()


@app.handler("wait_for_release")
def wait_for_release(payload: Any, context: Context) -> Any:
    context.progress(phase="waiting")
    while not release.wait(0.01):
        context.check()
    return "released"


@app.handler("release", run="inline")
def do_release(payload: Any, context: Context) -> Any:
    release.set()
    return None


@both("trace")
def trace(payload: Any, context: Context) -> Any:
    return context.trace


@app.handler("rows_inline", run="inline")
@both("rows")
def rows(payload: Any, context: Context) -> Any:
    found = context.rows(payload["rows"])
    return {"count": len(found), "first": found[0], "last": found[-1], "sum": sum(row["id"] for row in found)}


@app.handler("shop.price", run="inline", cache=60)
def price(payload: Any, context: Context) -> Any:
    return {"price": 5}


@app.handler("shop.stock", cache="validate")
def stock(payload: Any, context: Context) -> Any:
    return {"stock": payload.get("n", 3)}


@app.handler("upload")
def upload(payload: Any, context: Context) -> Any:
    return {"bytes": len(payload["stream"]), "name": payload.get("name")}


@both("download")
def download(payload: Any, context: Context) -> Any:
    for n in range(payload["n"]):
        context.stream(chunk=b"%d," % n)
    context.stream(text="")
    if payload.get("fail"):
        raise ValueError("half way")
    return "not sent"


@app.handler("flood")
def flood(payload: Any, context: Context) -> Any:
    """Send events until nobody wants them."""
    while True:
        context.progress(text="x" * 100_000)
