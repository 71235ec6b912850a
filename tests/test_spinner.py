"""When the reader of a Port spins, counted in polls by a clock that only polls move."""

from __future__ import annotations

import itertools
import os
import select
import threading
from pathlib import Path

import pytest
from support import BridgeProcess

from erl_bridge.transports.port import PortTransport
from erl_bridge.transports.spinner import FIRST_PAUSE, IN_VAIN, LONGEST_PAUSE, SOON, THERE_BEFORE, WORTH_IT, Spinner

US = 1e-6
LIMIT = 60 * US
DATA = b"bytes"


class Machine:
    """A poll, a read and a clock. A poll takes a microsecond, a read sleeps until bytes come, when they are said to."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.now = 0.0
        self.due = 0.0
        self.spins = 0
        self.sleeps = 0
        self.preempted = False  # after the first poll of a wait
        self.spinner = Spinner(self.poll, self.read, limit, lambda: self.now)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        assert timeout == 0
        self.spins += 1
        self.now = max(self.now + US, self.due) if self.preempted and self.spins > 1 else self.now + US
        return [(0, 1)] if self.now >= self.due else []

    def read(self) -> bytes:
        self.sleeps += self.now < self.due
        self.now = max(self.now, self.due)
        return DATA

    def wait(self, after: float, alone: bool = True) -> tuple[int, int]:
        """Wait for bytes that come so many seconds from now; the polls without and with sleep that it took."""
        self.spins = self.sleeps = 0
        self.due = self.now + after
        assert self.spinner.wait(alone) == DATA
        return self.spins, self.sleeps


def test_back_to_back_calls_never_sleep_after_the_first() -> None:
    machine = Machine()
    assert machine.wait(10 * US) == (0, 1)
    for _ in range(1000):
        spins, sleeps = machine.wait(10 * US)
        assert (sleeps, 9 <= spins <= 11) == (0, True)


def test_calls_far_apart_cost_one_spin_at_most() -> None:
    machine = Machine()
    machine.wait(10 * US)
    spins, sleeps = machine.wait(0.02)
    assert (sleeps, spins * US <= LIMIT + 2 * US) == (1, True)
    assert [machine.wait(0.02) for _ in range(1000)] == [(0, 1)] * 1000


def test_spins_that_fail_become_rare() -> None:
    machine = Machine()
    waits = [machine.wait(2 * LIMIT) for _ in range(10 * LONGEST_PAUSE)]  # short, but always longer than a spin
    assert all(sleeps == 1 for _, sleeps in waits)
    tried = [at for at, (spins, _) in enumerate(waits) if spins]
    pauses = [later - earlier - 1 for earlier, later in itertools.pairwise(tried)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == LONGEST_PAUSE


def test_a_spin_that_is_preempted_counts_as_one_that_failed() -> None:
    machine = Machine()
    machine.wait(30 * US)
    machine.preempted = True
    assert machine.wait(30 * US)[1] == 0
    assert [machine.wait(30 * US) for _ in range(FIRST_PAUSE)] == [(0, 1)] * FIRST_PAUSE


def test_after_failures_success_brings_the_spin_back() -> None:
    machine = Machine()
    for _ in range(200):
        machine.wait(2 * LIMIT)
    sleeping = sum(machine.wait(10 * US)[1] for _ in range(2 * LONGEST_PAUSE))
    assert sleeping < LONGEST_PAUSE
    assert [machine.wait(10 * US)[1] for _ in range(100)] == [0] * 100


def test_one_that_fails_now_and_then_keeps_few_others_from_spinning() -> None:
    machine = Machine()
    waits = [machine.wait(2 * LIMIT if at % 50 == 0 else 10 * US) for at in range(2000)]  # as where the BEAM collects
    assert sum(sleeps for _, sleeps in waits) < 200


@pytest.mark.parametrize(("limit", "alone"), [(0.0, True), (LIMIT, False)])
def test_there_is_no_spin_when_it_is_off_or_others_work(limit: float, alone: bool) -> None:
    machine = Machine(limit)
    assert [machine.wait(10 * US, alone) for _ in range(100)] == [(0, 1)] * 100


def test_a_wait_is_short_up_to_some_times_the_limit() -> None:
    machine = Machine()
    machine.wait((SOON + 1) * LIMIT)
    assert machine.wait(10 * US) == (0, 1)
    assert machine.wait(10 * US)[1] == 0


def test_compiled_code_looks_for_input() -> None:
    spin = pytest.importorskip("erl_bridge.transports._spin").spin
    here, there = os.pipe()
    other, another = os.pipe()
    assert spin((here, other), 1_000, 10**12) == (IN_VAIN, [])
    later = threading.Thread(target=os.write, args=(there, DATA))
    later.start()
    outcome, ready = spin((here, other), 60 * 10**9, 10**12)  # without the lock, else nobody could write
    later.join()
    assert (outcome in (THERE_BEFORE, WORTH_IT), ready) == (True, [(here, select.POLLIN)])
    assert spin((other, here), 1_000, 10**12) == (THERE_BEFORE, [(here, select.POLLIN)])
    with pytest.raises(ValueError, match="at most 64 descriptors, got 65"):
        spin((here,) * 65, 1, 1)
    for descriptor in (here, there, other, another):
        os.close(descriptor)


def test_what_comes_of_compiled_looks_is_learned() -> None:
    outcomes = iter([THERE_BEFORE, WORTH_IT, IN_VAIN])
    reads: list[None] = []
    spinner = Spinner(
        lambda timeout: pytest.fail("it polls"),
        lambda: reads.append(None),
        LIMIT,
        lambda: 0.0,
        look=lambda: next(outcomes),
    )
    for _ in range(4 + FIRST_PAUSE):  # the first is without a spin, and as many as a pause after the one in vain
        spinner.wait(alone=True)
    assert (list(outcomes), len(reads)) == ([], 4 + FIRST_PAUSE)
    with pytest.raises(StopIteration):
        spinner.wait(alone=True)


@pytest.mark.parametrize("spin_us", [0, 60, 10_000_000])
def test_what_was_read_is_served_before_the_transport_settles(spin_us: int) -> None:
    here, there = os.pipe()
    transport = PortTransport(here, there, spin_us)
    transport.write(b"1")
    assert transport.read(True) == b"1"  # at once: so the next read spins
    settled = threading.Thread(target=transport.settle, daemon=True)
    settled.start()
    assert settled.is_alive()  # as long as what was read is served
    reading = threading.Thread(target=transport.read, args=(True,), daemon=True)
    reading.start()
    settled.join()
    os.close(there)


@pytest.mark.parametrize("spin_us", ["0", "60", "1000"])
def test_answers_are_the_same_with_and_without_a_spin(spin_us: str) -> None:
    with BridgeProcess(
        "--no-dspy", "--app", "handlers_app:app", "--spin-us", spin_us, cwd=Path(__file__).parent
    ) as bridge:
        assert [bridge.ok("ping", {"n": n}) for n in range(100)] == [{"n": n} for n in range(100)]
        assert [bridge.ok("echo_thread", {"n": n}) for n in range(20)] == [{"n": n} for n in range(20)]
        assert bridge.close() == 0
