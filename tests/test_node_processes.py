"""What a node tells others of its processes: monitors, links, exits, and the end of a connection."""

from __future__ import annotations

from typing import Any

import pytest
from support import a

from erl_bridge import Pid, Reference
from erl_bridge.node_state import processes as module
from erl_bridge.node_state.processes import Processes, TooMany

OWN, PEER, OTHER = a("py1@h"), a("a@h"), a("b@h")
FROM, SECOND = Pid(PEER, 9, 0, 1), Pid(OTHER, 10, 0, 1)
REF, REF_2 = Reference(PEER, 1, (1, 2, 3)), Reference(OTHER, 1, (4, 5, 6))
NAME = a("erl_bridge")


class World:
    """The processes of a node and what it told others."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.processes = Processes(OWN, 7, lambda *signal: self.told.append(signal))
        self.pid = self.processes.spawn(NAME)

    def since(self) -> list[Any]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def world() -> World:
    return World()


def test_pids_and_references_are_new_and_fit_into_those_of_any_otp(world: World) -> None:
    numbers = Processes(OWN, 7, lambda *_: None)
    numbers._last_pid, numbers._last_reference = (1 << 15) - 2, (1 << 18) - 2
    pids, references = [numbers.spawn() for _ in range(4)], [numbers.reference() for _ in range(4)]
    assert [(pid.id, pid.serial) for pid in pids] == [(32767, 0), (0, 1), (1, 1), (2, 1)]
    assert [ref.ids for ref in references] == [(262143, 0, 0), (0, 1, 0), (1, 1, 0), (2, 1, 0)]
    assert {pid.creation for pid in pids} == {7}


def test_a_monitor_of_nobody_is_down_at_once(world: World) -> None:
    stale = Pid(OWN, world.pid.id, world.pid.serial, 6)  # of the incarnation before
    for target in (a("nobody"), Pid(OWN, 9999, 0, 7), stale):
        world.processes.on_monitor(FROM, target, REF)
        assert world.since() == [(PEER, "down", target, FROM, REF, a("noproc"))]
    assert world.processes.counts()["watchers"] == 0


def test_who_monitors_a_process_hears_of_its_end_in_the_words_it_used(world: World) -> None:
    world.processes.on_monitor(FROM, NAME, REF)
    world.processes.on_monitor(SECOND, world.pid, REF_2)
    assert world.since() == []
    world.processes.exit(world.pid, "done")
    assert world.since() == [(PEER, "down", NAME, FROM, REF, "done"), (OTHER, "down", world.pid, SECOND, REF_2, "done")]
    assert world.processes.find(NAME) is None


def test_who_has_stopped_to_monitor_hears_nothing(world: World) -> None:
    world.processes.on_monitor(FROM, NAME, REF)
    world.processes.on_demonitor(FROM, NAME, REF)
    world.processes.exit(world.pid, "done")
    world.processes.on_demonitor(FROM, NAME, REF)  # which was under way
    assert world.since() == []


def test_a_link_to_nobody_is_an_exit_at_once(world: World) -> None:
    nobody = Pid(OWN, 9999, 0, 7)
    world.processes.on_link(FROM, nobody)
    assert world.since() == [(PEER, "exit", nobody, FROM, a("noproc"))]


def test_who_is_linked_gets_the_exit(world: World) -> None:
    world.processes.on_link(FROM, world.pid)
    world.processes.on_link(FROM, world.pid)
    world.processes.exit(world.pid, "done")
    assert world.since() == [(PEER, "exit", world.pid, FROM, "done")]
    assert world.processes.counts()["links"] == 0


def test_an_unlink_is_acknowledged_before_anything_else_also_without_a_link(world: World) -> None:
    world.processes.on_link(FROM, world.pid)
    world.processes.on_unlink(5, FROM, world.pid)
    world.processes.exit(world.pid, "done")
    world.processes.on_unlink(6, FROM, world.pid)
    assert world.since() == [
        (PEER, "unlink_ack", 5, world.pid, FROM),
        (PEER, "unlink_ack", 6, world.pid, FROM),
    ]


def test_an_old_unlink_is_not_acknowledged(world: World) -> None:
    world.processes.on_link(FROM, world.pid)
    world.processes.on_old_unlink(FROM, world.pid)
    world.processes.exit(world.pid, "done")
    assert world.since() == []


def test_a_link_that_is_being_undone_does_not_come_back(world: World) -> None:
    world.processes.link(world.pid, FROM)
    world.processes.unlink(world.pid, FROM)
    assert world.since() == [(PEER, "link", world.pid, FROM), (PEER, "unlink", 1, world.pid, FROM)]
    world.processes.on_link(FROM, world.pid)
    assert world.processes.counts()["links"] == 0
    world.processes.on_unlink_ack(7, FROM, world.pid)  # of another unlink
    world.processes.on_link(FROM, world.pid)
    assert world.processes.counts()["links"] == 0
    world.processes.on_unlink_ack(1, FROM, world.pid)
    world.processes.on_link(FROM, world.pid)
    assert world.processes.counts()["links"] == 1


def test_only_kill_ends_a_process_and_it_says_killed() -> None:
    world, killed = World(), []
    pid = world.processes.spawn(a("service"), lambda: killed.append(True))
    world.processes.on_link(FROM, pid)
    for reason in (a("normal"), a("shutdown"), "why"):
        world.processes.on_exit2(FROM, pid, reason)
    assert (world.since(), killed) == ([], [])
    world.processes.on_exit2(FROM, pid, a("kill"))
    assert (world.since(), killed) == ([(PEER, "exit", pid, FROM, a("killed"))], [True])
    world.processes.on_exit2(FROM, pid, a("kill"))
    assert killed == [True]


def test_a_process_survives_the_end_of_those_it_is_linked_to(world: World) -> None:
    world.processes.on_link(FROM, world.pid)
    world.processes.on_exit(FROM, world.pid, "why")
    assert world.processes.find(NAME) == world.pid
    assert world.processes.counts()["links"] == 0


def test_a_monitor_of_ones_own_fires_once(world: World) -> None:
    reasons: list[Any] = []
    reference = world.processes.monitor(world.pid, FROM, PEER, reasons.append)
    assert world.since() == [(PEER, "monitor", world.pid, FROM, reference)]
    world.processes.on_down(FROM, world.pid, reference, "why")
    world.processes.on_down(FROM, world.pid, reference, "why")
    world.processes.demonitor(reference)
    assert (reasons, world.since()) == (["why"], [])


def test_a_monitor_that_is_undone_does_not_fire(world: World) -> None:
    reasons: list[Any] = []
    reference = world.processes.monitor(world.pid, a("shop"), PEER, reasons.append)
    world.processes.demonitor(reference)
    world.processes.on_down(a("shop"), world.pid, reference, "why")
    assert reasons == []
    assert world.since()[1:] == [(PEER, "demonitor", world.pid, a("shop"), reference)]


def test_a_node_that_goes_takes_its_monitors_and_links_along_and_is_down(world: World) -> None:
    reasons: list[Any] = []
    processes = world.processes
    processes.on_monitor(FROM, NAME, REF)
    processes.on_monitor(SECOND, NAME, REF_2)
    processes.on_link(FROM, world.pid)
    processes.link(world.pid, Pid(PEER, 11, 0, 1))
    processes.unlink(world.pid, Pid(PEER, 11, 0, 1))
    processes.monitor(world.pid, FROM, PEER, reasons.append)
    processes.monitor(world.pid, SECOND, OTHER, reasons.append)
    world.since()
    processes.on_node_down(PEER)
    assert (reasons, world.since()) == ([a("noconnection")], [])
    assert processes.counts() == {"processes": 1, "watchers": 1, "links": 0, "monitors": 1}


def test_a_process_of_one_call_ends_for_the_one_that_knows_of_it(world: World) -> None:
    processes = world.processes
    pid = processes.spawn()
    processes.watch(FROM, pid, REF, linked=False)
    processes.finish(pid, REF, "result")
    assert world.since() == [(PEER, "down", pid, FROM, REF, "result")]
    pid = processes.spawn()
    processes.watch(FROM, pid, REF, linked=False)
    processes.on_demonitor(FROM, pid, REF)
    processes.finish(pid, REF, "result")
    assert world.since() == []
    pid = processes.spawn()
    processes.watch(FROM, pid, REF, linked=True)
    processes.finish(pid, REF, "result")
    assert world.since() == [(PEER, "down", pid, FROM, REF, "result"), (PEER, "exit", pid, FROM, "result")]
    assert processes.counts() == {"processes": 1, "watchers": 0, "links": 0, "monitors": 0}


def test_a_process_that_nothing_kills(world: World) -> None:
    world.processes.on_exit2(FROM, world.pid, a("kill"))
    assert world.processes.find(NAME) == world.pid


def test_what_others_hold_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WATCHERS", 2)
    world.processes.on_monitor(FROM, NAME, REF)
    world.processes.on_link(FROM, world.pid)
    with pytest.raises(TooMany):
        world.processes.on_monitor(SECOND, NAME, REF_2)
    with pytest.raises(TooMany):
        world.processes.on_link(SECOND, world.pid)
