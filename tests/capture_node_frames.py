"""Writes tests/node_frames.txt: the frames that BEAMs send another node, as they are on the wire.

    .venv/bin/python tests/capture_node_frames.py [ELIXIR ...]

Each argument is a command that is Elixir, ``"chroot /tree elixir"`` say; its OTP's frames are taken anew, those of
other versions stay. A line is: OTP, what the other node has told that it can do, what the BEAM was told to do, and the
frame in hexadecimal digits, in which ``78*1000`` is a thousand times the byte 78.
"""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import node_support
from node_support import COOKIE, Beam, Epmd
from support import DEADLINE

from erl_bridge import Atom, Pid, Reference, etf
from erl_bridge.framing import FrameReader
from erl_bridge.wire import capabilities, dist
from erl_bridge.wire import epmd as epmd_wire
from erl_bridge.wire.handshake import Initiator, Own

FILE = Path(__file__).parent / "node_frames.txt"
NAME, CREATION = "py1@127.0.0.1", 7
PY = Atom(NAME)
PID, ALIAS, MONITOR = Pid(PY, 39, 0, CREATION), Reference(PY, CREATION, (1, 2, 3)), Reference(PY, CREATION, (4, 5, 6))
_MODERN = capabilities.OURS & ~capabilities.FRAGMENTS
FLAGS = {
    "modern": _MODERN,
    "old": _MODERN & ~(capabilities.EXIT_PAYLOAD | capabilities.SEND_SENDER | capabilities.ALTACT_SIG),
    "fragments": capabilities.OURS,
}
WANTS_UNLINK_ID = 26  # the first OTP that does
# What the BEAM does: a name, its Elixir, and how many frames come of it. `pid`, `py` and `alias` are of the other node.
DEEDS = {
    "send to a name": ("send({:erl_bridge, py}, :hello)", 1),
    "send to a pid": ("send(pid, :hello)", 1),
    "send to an alias": ("send(alias, :hello)", 1),
    "cast": ("GenServer.cast({:erl_bridge, py}, :hello)", 1),
    "call": ("catch_exit.(fn -> GenServer.call({:erl_bridge, py}, :hello, 1) end)", 3),
    "ping": ("spawn(fn -> Node.ping(py) end)", 2),
    "old rpc": ("send({:rex, py}, {self(), {:call, :erlang, :node, [], :user}})", 1),
    "monitor and demonitor a name": ("Process.demonitor(Process.monitor({:erl_bridge, py}))", 2),
    "monitor and demonitor a pid": ("Process.demonitor(Process.monitor(pid))", 2),
    "link and unlink": ("Process.link(pid); Process.unlink(pid)", 2),
    "link and die": ("spawn(fn -> Process.link(pid); exit(:why) end)", 2),
    "exit": ("Process.exit(pid, :why)", 1),
    "group leader": (":erlang.group_leader(self(), pid)", 1),
    "erpc": ("catch_exit.(fn -> :erpc.call(py, :erlang, :node, [], 1) end)", 1),
    "spawn": ("spawn(fn -> Node.spawn_link(py, :erlang, :node, []) end)", 1),
    "die monitored": ("spawn(fn -> receive do: (:die -> exit(:why)) end) |> monitored.()", 1),
    "be unlinked": ("unlinked.(self())", 1),
    "traced send to a name": ("traced.(fn -> send({:erl_bridge, py}, :hello) end)", 1),
    "traced send to a pid": ("traced.(fn -> send(pid, :hello) end)", 1),
    "traced send to an alias": ("traced.(fn -> send(alias, :hello) end)", 1),
    "traced link and die": ("traced.(fn -> Process.link(pid); exit(:why) end)", 2),
    "traced spawn": ("traced.(fn -> Node.spawn(py, :erlang, :node, []) end)", 1),
}
LARGE = {
    "send in fragments": ('send(pid, String.duplicate("x", 70_000))', 2),
    "send in fragments to a name": ('send({:erl_bridge, py}, String.duplicate("x", 70_000))', 2),
    "die in fragments": ('spawn(fn -> Process.link(pid); exit(String.duplicate("x", 70_000)) end)', 3),
}
PRELUDE = """
true = Process.register(self(), :tester)
Process.flag(:trap_exit, true)
Logger.configure(level: :none)
catch_exit = fn f -> spawn(fn -> try do f.() catch _, _ -> :ok end end) end
traced = fn f -> spawn(fn -> :seq_trace.set_token(:send, true); :seq_trace.set_token(:label, 5); f.() end) end
"""


class Wire:
    """A connection to a BEAM, as the node ``NAME``."""

    def __init__(self, epmd: Epmd, beam: Beam, flags: int) -> None:
        with socket.create_connection(("127.0.0.1", epmd.port), DEADLINE) as sock:
            sock.sendall(epmd_wire.lookup(beam.name.partition("@")[0]))
            listed = epmd_wire.found(sock.recv(4096))
        assert listed is not None
        self.flags = flags
        self.socket = socket.create_connection(("127.0.0.1", listed.port), DEADLINE)
        machine = Initiator(Own(NAME, CREATION, COOKIE.encode(), flags), beam.name, 1)
        self.socket.sendall(machine.begin())
        while machine.peer is None:
            self.socket.sendall(machine.receive(self.socket.recv(4096)))
        self.both = flags & machine.peer.flags
        self.frames = FrameReader()
        self.received: list[bytes] = []

    def send(self, control: tuple[object, ...], *payload: object) -> None:
        self.socket.sendall(
            b"".join(dist.frames(self.both, etf.encode(control), b"".join(map(etf.encode, payload)), 1))
        )

    def receive(self) -> bytes:
        """The next frame that is no tick."""
        while not self.received:
            self.received += [
                one for one in self.frames.feed(self.socket.recv(65536)) if isinstance(one, bytes) and one
            ]
        return self.received.pop(0)

    def payload(self) -> object:
        """What the next frame sends."""
        signal = dist.Receiver(Atom("ex@127.0.0.1"), self.both, 1 << 20).receive(self.receive())
        assert signal is not None
        return signal.payload()

    def tell(self, message: object) -> None:
        self.send((6, PID, Atom(""), Atom("tester")), message)


def shown(frame: bytes) -> str:
    """The frame in hexadecimal digits, with long runs of a byte counted."""
    return re.sub(r"(..)(?:\1){31,}", lambda run: f" {run[1]}*{len(run[0]) // 2} ", frame.hex(" ").replace(" ", ""))


def capture(command: str) -> list[str]:
    """The lines for the OTP of a command that is Elixir."""
    node_support.ELIXIR = command
    epmd, lines = Epmd(), []
    try:
        for variant, flags in FLAGS.items():
            beam = Beam("ex@127.0.0.1", epmd.port)
            try:
                otp = int(beam.eval("System.otp_release() |> String.to_integer()"))
                beam.eval(PRELUDE)
                if variant == "old" and otp < WANTS_UNLINK_ID:
                    flags &= ~capabilities.UNLINK_ID
                wire = Wire(epmd, beam, flags)
                wire.tell((PID, PY, ALIAS))
                beam.eval("{pid, py, alias} = receive do message -> message end")
                for name, (code, count) in ({**DEEDS, **LARGE} if variant == "fragments" else DEEDS).items():
                    if name == "be unlinked" and not flags & capabilities.UNLINK_ID:
                        continue
                    frames = frames_of(wire, beam, code, count)
                    lines += [f"{otp}\t{variant}\t{name}\t{shown(frame)}" for frame in frames]
                wire.socket.close()
            finally:
                beam.kill()
    finally:
        epmd.stop()
    return lines


def frames_of(wire: Wire, beam: Beam, code: str, count: int) -> list[bytes]:
    """What the BEAM sends for some Elixir; where the other node begins it, that comes first."""
    if "monitored" in code:
        beam.eval(f"monitored = fn process -> send(pid, process) end; {code}")
        process = wire.payload()
        wire.send((19, PID, process, MONITOR))
        wire.send((22, PID, process), Atom("die"))
    elif "unlinked" in code:
        beam.eval("send(pid, self())")
        process = wire.payload()
        wire.send((1, PID, process))
        wire.send((35, 9, PID, process))
    else:
        beam.eval(code)
    return [wire.receive() for _ in range(count)]


def main() -> None:
    known = FILE.read_text().splitlines() if FILE.exists() else []
    for command in sys.argv[1:] or [str(node_support.ELIXIR)]:
        lines = capture(command)
        otp = lines[0].partition("\t")[0]
        known = [line for line in known if line.partition("\t")[0] != otp] + lines
    FILE.write_text("\n".join(sorted(known, key=lambda line: int(line.partition("\t")[0]))) + "\n")


if __name__ == "__main__":
    main()
