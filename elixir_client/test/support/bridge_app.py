"""The handlers that the live tests of the Elixir client call."""

import gc
import logging
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from erl_bridge import Bridge, Stopped

app = Bridge()
stopped = queue.Queue()


@app.handler("echo", run="inline")
def echo(payload, context):
    return payload


@app.handler("double", run="job")
def double(payload, context):
    return payload["n"] * 2


@app.handler("count")
def count(payload, context):
    for n in range(payload["to"]):
        context.progress(n=n)
    context.stream(text="last")
    return "counted"


@app.handler("wait")
def wait(payload, context):
    """Wait until stopped, and tell "stopped" of it under the name in the metadata."""
    context.progress(waiting=True)
    try:
        while True:
            context.check()
            time.sleep(0.002)
    except Stopped:
        stopped.put(context.metadata["label"])
        raise


@app.handler("hold")
def hold(payload, context):
    """Wait in the process of that pid, and answer in any other."""
    return wait(payload, context) if os.getpid() == payload["os_pid"] else os.getpid()


@app.handler("flood")
def flood(payload, context):
    """Send a thousand events a second until stopped, and tell "stopped" of it."""
    context.progress(waiting=True)
    try:
        while True:
            context.check()
            context.stream(text="x" * 20_000)
            time.sleep(0.001)
    except Stopped:
        stopped.put(context.metadata["label"])
        raise


@app.handler("stopped")
def next_stopped(payload, context):
    return stopped.get(timeout=60)


@app.handler("ask")
def ask(payload, context):
    """Call one function of the client."""
    return context.call(payload["name"], payload["args"])


@app.handler("ask_all")
def ask_all(payload, context):
    """Call a function of the client once for each item, all at once."""
    with ThreadPoolExecutor(len(payload["items"])) as pool:
        return list(pool.map(lambda item: context.call(payload["name"], [item]), payload["items"]))


@app.handler("fail")
def fail(payload, context):
    raise ValueError(payload["message"])


@app.handler("print")
def print_lines(payload, context):
    print(payload["stdout"])
    print(payload["stderr"], file=sys.stderr, flush=True)


@app.handler("held_for_others", run="inline")
def held_for_others(payload, context):
    """How many objects there are here for other nodes: their connections, their processes, and calls to these."""
    gc.collect()
    names = [type(one).__name__ for one in gc.get_objects()]
    return {name: names.count(name) for name in ("Connection", "NodeClient", "Work", "_Attempt", "_Call")}


@app.handler("threads")
def threads(payload, context):
    return threading.active_count()


@app.handler("die")
def die(payload, context):
    print("this is the end", file=sys.stderr, flush=True)
    os._exit(3)


@app.handler("compute", run="inline")
def compute(payload, context):
    """Keep the reader and the processor busy for so long."""
    end = time.process_time() + payload["seconds"]
    while time.process_time() < end:
        pass
    return os.getpid()


filled = queue.Queue()


@app.handler("fill", run="inline")
def fill(payload, context):
    filled.put(payload["value"])


@app.handler("filled")
def take_filled(payload, context):
    return filled.get(timeout=60)


@app.handler("trace")
def trace(payload, context):
    return context.trace


@app.handler("die_once", run="inline")
def die_once(payload, context):
    """Die in the process of that pid, and answer in any other."""
    if os.getpid() == payload["os_pid"]:
        os._exit(3)
    return os.getpid()


@app.handler("log")
def log(payload, context):
    logging.getLogger("shop").log(getattr(logging, payload["level"]), payload["text"])


@app.handler("count_rows")
def count_rows(payload, context):
    return len(context.rows(payload["rows"]))


@app.handler("rows", run="job")
def rows(payload, context):
    """What a job process makes of rows, or of a dataset."""
    held = context.rows(payload["rows"])
    return {"count": len(held), "last": held[-1] if len(held) else None, "sum": sum(row["n"] for row in held)}
