"""The processes of this node: their names, who monitors them or is linked to them, and whom they monitor.

Rule of this file: no I/O and no lock. What happens is told by a method; what other nodes are to know of it is told
to ``tell(node, kind, *args)``, with the kinds and arguments of :func:`erl_bridge.wire.dist.control`. A process here is
a name for a service: it ends when it is told to, and some end by an exit with the reason ``kill``. They survive any
other, as processes that trap exits do.
"""

from __future__ import annotations

from ..terms import Atom, Pid, Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Down = Callable[[Any], object]  # called with the reason

NOPROC, NOCONNECTION, KILL, KILLED = (Atom(name) for name in ("noproc", "noconnection", "kill", "killed"))
MAX_WATCHERS = 1_000_000  # monitors and links that others hold
_ID_BITS, _SERIAL_BITS = 15, 13  # what every OTP can hold in a pid
_FIRST_ID = 38  # the first ones of a BEAM are its own


class TooMany(Exception):
    """Another node holds more monitors and links than this one keeps."""


class _Process:
    """A process: how it was registered, who is linked to it, and from which links it waits to be let go."""

    __slots__ = ("links", "name", "on_kill", "unlinking")

    def __init__(self, name: Atom | None, on_kill: Callable[[], object] | None) -> None:
        self.name = name
        self.on_kill = on_kill
        self.links: set[Pid] = set()
        self.unlinking: dict[Pid, int] = {}


class Processes:
    """All processes of the node called ``node`` in its incarnation ``creation``."""

    def __init__(self, node: Atom, creation: int, tell: Callable[..., object]) -> None:
        self.node = node
        self.creation = creation
        self.names: dict[Atom, Pid] = {}
        self._tell = tell
        self._alive: dict[Pid, _Process] = {}
        self._watchers: dict[Reference, tuple[Pid, Any, Pid]] = {}  # who, what it named, which process that is
        self._monitors: dict[Reference, tuple[Pid, Any, Atom, Down]] = {}  # of ours: who, what, where, what then
        self._links = 0
        self._last_pid = _FIRST_ID
        self._last_reference = 0
        self._last_unlink = 0

    # -- this node's own -----------------------------------------------------------------------------------------

    def spawn(self, name: Atom | None = None, on_kill: Callable[[], object] | None = None) -> Pid:
        """A new process, registered under ``name`` if one is given. ``on_kill`` is called when an exit ended it.

        Without that no exit ends it.
        """
        self._last_pid += 1
        number = self._last_pid
        pid = Pid(self.node, number % (1 << _ID_BITS), (number >> _ID_BITS) % (1 << _SERIAL_BITS), self.creation)
        self._alive[pid] = _Process(name, on_kill)
        if name is not None:
            self.names[name] = pid
        return pid

    def reference(self) -> Reference:
        """A new reference."""
        self._last_reference += 1
        number = self._last_reference
        return Reference(self.node, self.creation, (number & 0x3FFFF, number >> 18 & 0xFFFF_FFFF, number >> 50))

    def find(self, target: Any) -> Pid | None:
        """The living process that a pid or a name stands for."""
        if type(target) is Pid:
            return target if target in self._alive else None
        return self.names.get(target)

    def exit(self, pid: Pid, reason: Any) -> None:
        """End a process: who monitors it or is linked to it is told."""
        process = self._alive.pop(pid)
        if process.name is not None:
            del self.names[process.name]
        for reference, (who, target, watched) in list(self._watchers.items()):
            if watched == pid:
                del self._watchers[reference]
                self._tell(who.node, "down", target, who, reference, reason)
        self._links -= len(process.links)
        for other in process.links:
            self._tell(other.node, "exit", pid, other, reason)
        for reference, (own, _, _, _) in list(self._monitors.items()):
            if own == pid:
                self.demonitor(reference)

    def watch(self, who: Pid, pid: Pid, reference: Reference | None, linked: bool) -> None:
        """Note that ``who`` had a process begun, and monitors it by the reference, if there is one, and is linked."""
        if reference is not None:
            self._watchers[reference] = who, pid, pid
        if linked:
            self._add_link(self._alive[pid], who)

    def finish(self, pid: Pid, reference: Reference, reason: Any) -> None:
        """End a process that only the one who had it begun knows of: quicker than :meth:`exit`."""
        process = self._alive[pid]
        if process.links:
            self.exit(pid, reason)
            return
        del self._alive[pid]
        if (watcher := self._watchers.pop(reference, None)) is not None:
            who = watcher[0]
            self._tell(who.node, "down", pid, who, reference, reason)

    def monitor(self, own: Pid, target: Pid | Atom, node: Atom, on_down: Down) -> Reference:
        """Monitor a process of another node. ``on_down`` is called once, with the reason, unless it is undone."""
        reference = self.reference()
        self._monitors[reference] = own, target, node, on_down
        self._tell(node, "monitor", own, target, reference)
        return reference

    def demonitor(self, reference: Reference) -> None:
        """Undo a monitor, if it still is."""
        monitor = self._monitors.pop(reference, None)
        if monitor is not None:
            own, target, node, _ = monitor
            self._tell(node, "demonitor", own, target, reference)

    def link(self, own: Pid, other: Pid) -> None:
        """Link a process of this node to one of another."""
        process = self._alive[own]
        process.unlinking.pop(other, None)
        self._add_link(process, other)
        self._tell(other.node, "link", own, other)

    def unlink(self, own: Pid, other: Pid) -> None:
        """Undo a link. It counts no more, also for what comes before the other side has seen that."""
        process = self._alive[own]
        if other in process.links:
            self._drop_link(process, other)
            self._last_unlink += 1
            process.unlinking[other] = self._last_unlink
            self._tell(other.node, "unlink", self._last_unlink, own, other)

    # -- what other nodes do -------------------------------------------------------------------------------------

    def on_monitor(self, who: Pid, target: Any, reference: Reference) -> None:
        """Somebody monitors a process; where there is none it is down at once. Raises :class:`TooMany`."""
        pid = self.find(target)
        if pid is None:
            self._tell(who.node, "down", target, who, reference, NOPROC)
            return
        self._check_room()
        self._watchers[reference] = who, target, pid

    def on_demonitor(self, who: Pid, target: Any, reference: Reference) -> None:
        """Somebody monitors a process no more; the process may have ended meanwhile."""
        self._watchers.pop(reference, None)

    def on_down(self, target: Any, own: Pid, reference: Reference, reason: Any) -> None:
        """A process that one of this node's monitored is no more."""
        monitor = self._monitors.pop(reference, None)
        if monitor is not None:
            monitor[3](reason)

    def on_link(self, who: Pid, own: Pid) -> None:
        """Somebody links itself to a process; where there is none it gets its exit at once. Raises TooMany."""
        process = self._alive.get(own)
        if process is None:
            self._tell(who.node, "exit", own, who, NOPROC)
        elif who not in process.unlinking:  # else it was sent before the other side knew that the link is undone
            self._check_room()
            self._add_link(process, who)

    def on_unlink(self, number: int, who: Pid, own: Pid) -> None:
        """Somebody undoes a link: that is acknowledged before anything else is told, whether or not there was one."""
        self.on_old_unlink(who, own)
        self._tell(who.node, "unlink_ack", number, own, who)

    def on_old_unlink(self, who: Pid, own: Pid) -> None:
        """Somebody undoes a link, and does not wait to hear of it."""
        process = self._alive.get(own)
        if process is not None:
            self._drop_link(process, who)

    def on_unlink_ack(self, number: int, who: Pid, own: Pid) -> None:
        """Somebody has seen that a link is undone."""
        process = self._alive.get(own)
        if process is not None and process.unlinking.get(who) == number:
            del process.unlinking[who]

    def on_exit(self, who: Pid, own: Pid, reason: Any) -> None:
        """A process that one of this node's was linked to has ended: the link is gone."""
        self.on_old_unlink(who, own)

    def on_exit2(self, who: Pid, own: Pid, reason: Any) -> None:
        """Somebody asks a process to end. It does so for ``kill`` alone, if at all."""
        process = self._alive.get(own)
        if process is not None and process.on_kill is not None and reason is KILL:
            self.exit(own, KILLED)
            process.on_kill()

    def on_node_down(self, node: Atom) -> None:
        """The connection to a node is lost: its monitors and links are gone, and its processes are down."""
        for reference, (who, _, _) in list(self._watchers.items()):
            if who.node is node:
                del self._watchers[reference]
        for process in self._alive.values():
            for other in [pid for pid in process.links if pid.node is node]:
                self._drop_link(process, other)
            for other in [pid for pid in process.unlinking if pid.node is node]:
                del process.unlinking[other]
        for reference, (_, _, where, on_down) in list(self._monitors.items()):
            if where is node:
                del self._monitors[reference]
                on_down(NOCONNECTION)

    def counts(self) -> dict[str, int]:
        """How many there are of everything that is kept, for those who look for leaks."""
        return {
            "processes": len(self._alive),
            "watchers": len(self._watchers),
            "links": self._links,
            "monitors": len(self._monitors),
        }

    def _check_room(self) -> None:
        if len(self._watchers) + self._links >= MAX_WATCHERS:
            raise TooMany(f"more than {MAX_WATCHERS} monitors and links of other nodes")

    def _add_link(self, process: _Process, other: Pid) -> None:
        if other not in process.links:
            process.links.add(other)
            self._links += 1

    def _drop_link(self, process: _Process, other: Pid) -> None:
        if other in process.links:
            process.links.remove(other)
            self._links -= 1
