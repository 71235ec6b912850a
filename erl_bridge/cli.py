"""The command line: arguments, then a transport and a dispatcher joined together, then the exit status.

Rule of this file: between the start of the process and ``:hello`` nothing is imported that takes long; see
``docs/architecture.md``.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from .arguments import Option, UsageError, parse, usage
from .datasets.ceilings import DEFAULT as CEILINGS
from .files.source import MAX_FILE, MAX_ROW
from .framing import HEADER, MAX_FRAME
from .lanes import MAX_WAITING
from .transports.port import PortTransport, claim_fds, claim_stdio
from .transports.spinner import SPIN_US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process.

    The status is 0 after an orderly end, 1 when the application cannot be loaded or the bridge itself fails, 2 for
    wrong arguments and 130 after Ctrl-C.
    """
    status = 1
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)  # not sys.exit: that waits for threads, and one of them may be stuck


def _run(arguments: Sequence[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:10}{what}" for command, (_, what, _) in _COMMANDS.items()]
        print("usage: erl_bridge COMMAND [options]", "", *lines, sep="\n")
        return 0
    if name not in _COMMANDS:
        print(f"erl_bridge: there is no command {name}; there is {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    run, what, options = _COMMANDS[name]
    if "-h" in rest or "--help" in rest:
        print(usage(f"erl_bridge {name}", what, options))
        return 0
    try:
        values = parse(rest, options)
    except UsageError as error:
        print(f"erl_bridge {name}: {error}", file=sys.stderr)
        return 2
    return run(**values)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _two_fds(text: str) -> tuple[int, int]:
    fd_in, fd_out = (int(part) for part in text.split(","))
    return fd_in, fd_out


def serve_port(
    app: str,
    fds: tuple[int, int] | None,
    no_dspy: bool,
    no_preload: bool,
    max_frame: int,
    max_in_flight: int,
    max_threads: int,
    max_jobs: int,
    max_reused: int,
    job_memory: int,
    spin_us: int,
    max_waiting: int,
    **ceilings: int,
) -> int:
    """Serve the client of a Port until its input ends or it says ``:shutdown``; returns the exit status."""
    try:
        descriptors = claim_fds(*fds) if fds else claim_stdio()
    except OSError as error:
        print(f"erl_bridge port: --fds: descriptors {fds} are not open: {error}", file=sys.stderr)
        return 2
    # Only now, with stdout out of reach, is anything imported that might print.
    from . import logs
    from .dispatch import Capacity
    from .handlers import system
    from .service import Service
    from .session import Session
    from .transports import fast_path
    from .transports.base import serve

    capacity = Capacity(max_in_flight, max_threads, max_jobs, max_waiting, max_reused)
    service = Service.of("port", app, not no_dspy, capacity, job_memory, ceilings)
    if service is None:
        return 1
    transport = PortTransport(*descriptors, spin_us=spin_us)

    def end() -> None:
        """End the process from the thread that drained it; the main thread waits for input that need not come."""
        transport.settle()
        dispatcher.close()
        sys.stdout.flush()
        os._exit(0)

    dispatcher = service.dispatcher(on_shutdown=end)
    hello = system.hello(service.handlers, capacity, max_frame)

    def ready() -> None:
        logs.install()
        if not (no_preload or no_dspy):
            service.jobs.start()

    try:
        serve(transport, Session(max_frame=max_frame), dispatcher, hello, ready, partial(fast_path.of, transport))
    finally:
        draining = dispatcher.draining
        dispatcher.close()
        service.datasets.close(keep=draining)
    return 0


def answers(clear: bool) -> int:
    """Print what is kept of language models' answers, or forget it; returns the exit status."""
    from .handlers.dspy import lm_store

    store = lm_store.default()
    if clear:
        print("forgotten", store.clear())
    else:
        for name, value in store.stats().items():
            print(name, value)
    return 0


def info() -> int:
    """Print what is installed; returns the exit status."""
    from .info import print_facts

    return print_facts()


def _ceilings() -> list[Option]:
    """An option for each ceiling of datasets."""
    helps = {
        "dataset_sent": ("bytes of a dataset as it is sent", "BYTES", _positive),
        "dataset_size": ("bytes of a dataset, inflated", "BYTES", _positive),
        "dataset_rows": ("rows of a dataset", "N", _positive),
        "dataset_batch": ("bytes of a batch of rows, and so of the largest row", "BYTES", _positive),
        "dataset_store": ("bytes of all datasets that are kept, 0 for no limit", "BYTES", _not_negative),
        "max_transfers": ("datasets that are being received at once", "N", _positive),
        "transfer_idle": ("drop a dataset that nothing comes of for so long", "MS", _positive),
    }
    return [
        Option("--" + name.replace("_", "-"), help, metavar, convert, getattr(CEILINGS, name))
        for name, (help, metavar, convert) in helps.items()
    ]


_PORT_OPTIONS = [
    Option("--app", "serve the handlers of this erl_bridge.Bridge too", "MODULE:NAME", str, ""),
    Option("--fds", "speak over these descriptors (3,4 for nouse_stdio), not over stdio", "IN,OUT", _two_fds),
    Option("--no-dspy", "serve only the application's handlers, without DSPy"),
    Option("--no-preload", "start the process that imports dspy with the first job, not at once"),
    Option("--max-frame", "bytes of the largest frame that is read", "BYTES", _positive, MAX_FRAME),
    Option("--max-in-flight", "requests in flight", "N", _positive, 1000),
    Option("--max-threads", "handlers that run in threads at once", "N", _positive, 32),
    Option("--max-jobs", "job processes at once", "N", _positive, 8),
    Option("--max-reused", "job processes at once that are left for the next request: predictions", "N", _positive, 64),
    Option("--job-memory", "memory that a job may take beyond the template's, 0 for no limit", "BYTES", _positive, 0),
    Option("--spin-us", "look for requests so long before sleeping, 0 for not at all", "N", _not_negative, SPIN_US),
    Option("--max-waiting", "bytes of chunks of datasets that wait in memory", "BYTES", _positive, MAX_WAITING),
    *_ceilings(),
]


def serve_node(
    app: str,
    name: str,
    cookie_file: str,
    connect: list[str],
    host: str,
    port: int,
    no_epmd: bool,
    tls_cert: str,
    tls_key: str,
    tls_ca: str,
    tick_time: float,
    max_queued: int,
    no_dspy: bool,
    no_preload: bool,
    max_frame: int,
    max_in_flight: int,
    max_threads: int,
    max_jobs: int,
    max_reused: int,
    job_memory: int,
    spin_us: int,
    max_waiting: int,
    **ceilings: int,
) -> int:
    """Be a hidden node of an Erlang cluster until ``:shutdown`` or a signal; returns the exit status."""
    from . import logs
    from .dispatch import Capacity
    from .handlers import system
    from .node import serve
    from .node.cookie import BadCookie
    from .service import Service
    from .transports.tls import BadTls

    out = claim_stdio()[1]
    try:
        settings = serve.settings(
            name,
            cookie_file,
            connect,
            host,
            port,
            not no_epmd,
            tick_time=tick_time,
            max_message=max_frame,
            max_queued=max_queued,
        )
        tls = serve.tls(tls_cert, tls_key, tls_ca)
    except (serve.BadOption, BadCookie, BadTls) as error:
        print(f"erl_bridge node: {error}", file=sys.stderr)
        return 2
    capacity = Capacity(max_in_flight, max_threads, max_jobs, max_waiting, max_reused)
    service = Service.of("node", app, not no_dspy, capacity, job_memory, ceilings)
    if service is None:
        return 1

    def ready(node_name: str, node_port: int) -> None:
        logs.install()
        if not (no_preload or no_dspy):
            service.jobs.start()
        os.write(out, f"ready node {node_name} {node_port}\n".encode())

    try:
        facts = system.hello(service.handlers, capacity, max_frame)
        return serve.serve(settings, tls, service.timers, facts, spin_us, service.dispatcher, ready)
    finally:
        service.datasets.close(keep=False)


def _one(text: str) -> list[str]:
    return [text]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


_NODE_OPTIONS = [
    Option("--name", "the name of this node, name@host; without it --connect gives one", "NAME", str, ""),
    Option("--cookie-file", "the file with the cookie of the cluster", "FILE", str, "~/.erlang.cookie"),
    Option("--connect", "stay connected to this node, and do not listen; may be repeated", "NAME[:PORT]", _one, []),
    Option("--host", "the address to listen on", "ADDRESS", str, "127.0.0.1"),
    Option("--port", "the port to listen on, 0 for any that is free", "N", _not_negative, 0),
    Option("--no-epmd", "do not tell EPMD of this node"),
    Option("--tls-cert", "encrypt connections, with this certificate (PEM)", "FILE", str, ""),
    Option("--tls-key", "its key, where it is not in the same file", "FILE", str, ""),
    Option("--tls-ca", "the authorities that certificates of other nodes must be of", "FILE", str, ""),
    Option("--tick-time", "seconds after which a silent node is taken for gone", "SECONDS", _seconds, 60.0),
    Option("--max-queued", "bytes that may wait for a node that does not read", "BYTES", _positive, MAX_FRAME),
    *(option for option in _PORT_OPTIONS if option.name != "--fds"),
]


def serve_tcp(
    app: str,
    host: str,
    port: int,
    expose: list[str],
    token_file: str,
    token_env: str,
    tls_cert: str,
    tls_key: str,
    tls_ca: str,
    callback_hosts: list[str],
    no_dspy: bool,
    no_preload: bool,
    max_frame: int,
    max_stream: int,
    max_connections: int,
    idle_timeout: float,
    read_timeout: float,
    max_timeout_ms: int,
    drain_ms: int,
    max_in_flight: int,
    max_threads: int,
    max_jobs: int,
    max_reused: int,
    job_memory: int,
    max_waiting: int,
    **ceilings: int,
) -> int:
    """Serve clients of BERT-RPC over TCP until SIGTERM; returns the exit status."""
    out = claim_stdio()[1]
    from . import logs
    from .berp import Rules
    from .dispatch import Capacity
    from .service import Service, exposed, read_token
    from .transports.tcp import Limits, TcpServer, listen, stop_on_signals
    from .transports.tls import BadTls, server_context

    capacity = Capacity(max_in_flight, max_threads, max_jobs, max_waiting, max_reused)
    service = Service.of("tcp", app, not no_dspy, capacity, job_memory, ceilings)
    if service is None:
        return 1
    try:
        token = read_token(token_file, token_env)
        rules = Rules(
            exposed(expose, service),
            token=token,
            max_frame=max_frame,
            max_stream=max_stream,
            max_timeout_ms=max_timeout_ms,
        )
        tls = server_context(tls_cert, tls_key, tls_ca) if tls_cert else None
        listener = listen(host, port)
    except (OSError, ValueError, BadTls) as error:
        print(f"erl_bridge tcp: {error}", file=sys.stderr)
        return 2
    limits = Limits(max_connections, idle_timeout, read_timeout, read_timeout)
    server = TcpServer(
        listener, rules, limits, tls=tls, callback_hosts=frozenset(callback_hosts), drain=drain_ms / 1000
    )
    dispatcher = service.dispatcher(on_shutdown=server.finish)
    stop_on_signals(server)
    logs.install()
    if not (no_preload or no_dspy):
        service.jobs.start()
    os.write(out, "ready tcp {} {}\n".format(*listener.getsockname()[:2]).encode())
    try:
        server.serve(dispatcher)
    finally:
        dispatcher.close()
        service.datasets.close(keep=True)
    return 0


_TCP_OPTIONS = [
    Option("--app", "serve the handlers of this erl_bridge.Bridge too", "MODULE:NAME", str, ""),
    Option("--host", "the address to listen on", "ADDRESS", str, "127.0.0.1"),
    Option("--port", "the port to listen on, 0 for any that is free", "N", _not_negative, 0),
    Option("--expose", "only these modules and module.function", "NAME,...", _names, []),
    Option("--token-file", "the file with the token that clients must show", "FILE", str, ""),
    Option("--token-env", "the environment variable with that token", "NAME", str, ""),
    Option("--tls-cert", "speak TLS with this certificate (PEM)", "FILE", str, ""),
    Option("--tls-key", "its key, where it is not in the same file", "FILE", str, ""),
    Option("--tls-ca", "let in only clients with a certificate of these authorities", "FILE", str, ""),
    Option("--callback-hosts", "where results of casts may go, besides the client's own host", "HOST,...", _names, []),
    Option("--max-stream", "bytes of a stream that goes with a request", "BYTES", _positive, MAX_FRAME),
    Option("--max-connections", "connections at once", "N", _positive, 1000),
    Option("--idle-timeout", "seconds that a connection may be without a request", "SECONDS", _seconds, 300.0),
    Option("--read-timeout", "seconds that a request may take to come in", "SECONDS", _seconds, 60.0),
    Option("--max-timeout-ms", "the longest time for a request, 0 for no limit", "MS", _not_negative, 0),
    Option("--drain-ms", "what requests get to finish after SIGTERM", "MS", _not_negative, 5000),
    *(option for option in _PORT_OPTIONS if option.name not in ("--app", "--fds", "--spin-us")),
]


def read_file(file: str, format: str | None, on_demand: bool, max_file: int, max_row: int) -> int:
    """Write what is in a file to stdout as frames; the status is 1 when the reader went away before the end."""
    fd_in, fd_out = claim_stdio()
    from .files.serve import write
    from .files.source import Limits

    def send(frame: bytes) -> bool:
        rest = memoryview(frame)
        try:
            while rest:
                rest = rest[os.write(fd_out, rest) :]
            return not on_demand or _asked(fd_in)
        except OSError:
            return False

    return 0 if write(file, format, Limits(max_file, max_row), send) else 1


def _asked(fd: int) -> bool:
    """Wait until the client asks for more with an empty frame; false at the end of its input."""
    wanted = HEADER
    while wanted and (data := os.read(fd, wanted)):
        wanted -= len(data)
    return not wanted


def _format(text: str) -> str:
    from .files.formats import FORMATS

    if text not in FORMATS:
        raise ValueError
    return text


_READ_OPTIONS = [
    Option("FILE", "the file to read"),
    Option("--format", "what it is, where its name does not tell", "yaml|json|jsonl|csv", _format),
    Option("--on-demand", "after each frame wait for an empty frame on stdin"),
    Option("--max-file", "bytes of a YAML or JSON file", "BYTES", _positive, MAX_FILE),
    Option("--max-row", "bytes of a row of a JSON Lines or CSV file", "BYTES", _positive, MAX_ROW),
]


def datasets(action: str, id: str) -> int:
    """List, remove or verify datasets; returns the exit status."""
    from .datasets.command import run

    return run(action, id)


def _action(text: str) -> str:
    from .datasets.command import ACTIONS

    if text not in ACTIONS:
        raise ValueError
    return text


_DATASETS_OPTIONS = [
    Option("[ACTION]", "what to do, list if nothing is said", "list|remove|verify", _action, "list"),
    Option("[ID]", "of which dataset; how it begins is enough", "ID", str, ""),
]

_COMMANDS: dict[str, tuple[Callable[..., int], str, Sequence[Option]]] = {
    "port": (serve_port, "Serve an Erlang Port opened with {packet, 4}.", _PORT_OPTIONS),
    "node": (serve_node, "Be a hidden node of an Erlang cluster.", _NODE_OPTIONS),
    "tcp": (serve_tcp, "Serve clients of BERT-RPC 1.0 over TCP.", _TCP_OPTIONS),
    "info": (info, "Print the versions and the codec that are installed, one on each line.", []),
    "answers": (
        answers,
        "Tell how many answers of language models are kept on this host, or forget them.",
        [Option("--clear", "forget all of them")],
    ),
    "datasets": (
        datasets,
        "List the datasets that are kept on this host, remove one, or verify them.",
        _DATASETS_OPTIONS,
    ),
    "read": (read_file, "Write a file of data to stdout as external terms, each behind its length.", _READ_OPTIONS),
}
