"""Users' handlers, in threads and in job processes: results, errors, events, calls, deadlines, cancelling, crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import BridgeProcess, a, alive, keys, wait_gone

HERE = Path(__file__).parent
EVERYWHERE = pytest.mark.parametrize("where", ["thread", "job"])


@pytest.fixture(autouse=True)
def still_serves(app_bridge: BridgeProcess) -> Iterator[None]:
    """After every test here the bridge answers, and nothing is in flight or left over."""
    yield
    assert app_bridge.ok("ping", {"still": "there"}) == {"still": "there"}
    assert keys(app_bridge.ok("health_check"))["requests_in_flight"] == 0


@pytest.mark.parametrize("where", ["inline", "thread", "job"])
def test_a_handler_gets_the_payload_and_its_result_comes_back(app_bridge: BridgeProcess, where: str) -> None:
    payload = {a("n"): [1, 2.5, "é", b"\xff", None, (a("n"),)]}
    assert app_bridge.ok(f"echo_{where}", payload) == payload


def test_a_schema_turns_the_payload_into_its_type(app_bridge: BridgeProcess) -> None:
    assert app_bridge.ok("point", {a("x"): 1, a("name"): a("q")}) == {"x": 1, "name": "q"}
    error = app_bridge.error("point", {a("x"): "1"})
    assert (error["error_type"], error["message"]) == (a("invalid_request"), 'payload.x: expected int, got "1"')


@EVERYWHERE
def test_an_exception_is_an_error_with_type_message_and_traceback(app_bridge: BridgeProcess, where: str) -> None:
    error = app_bridge.error(f"fail_{where}")
    assert error["error_type"] is a("python_runtime_error")
    assert error["recovery_strategy"] is a("fallback")
    assert error["python_type"] == "ValueError"
    assert error["message"] == "ValueError: no such thing"
    assert "handlers_app.py" in error["traceback"]


@EVERYWHERE
def test_a_missing_package_is_an_error_with_the_command_that_installs_it(app_bridge: BridgeProcess, where: str) -> None:
    error = app_bridge.error(f"import_{where}")
    assert error["error_type"] is a("import_error")
    assert error["message"].endswith("pip install a_package_that_is_not_there")


@EVERYWHERE
def test_a_result_that_is_no_term_is_an_error_with_its_path(app_bridge: BridgeProcess, where: str) -> None:
    error = app_bridge.error(f"unsendable_{where}")
    assert error["error_type"] is a("serialization_error")
    assert "result.metrics.score" in error["message"]


@EVERYWHERE
def test_a_handler_cannot_invent_atoms(app_bridge: BridgeProcess, where: str) -> None:
    error = app_bridge.error(f"invent_atom_{where}")
    assert error["error_type"] is a("serialization_error")
    assert "an_atom_nobody_sent" in error["message"]


@EVERYWHERE
def test_what_is_printed_never_reaches_the_protocol(where: str) -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=HERE) as bridge:
        assert bridge.ok(f"print_{where}") == "printed"
        bridge.close()
        for text in ("a stray print", "a stray write", "a stray child"):
            assert text in bridge.stderr


@EVERYWHERE
def test_events_come_in_order_and_before_the_reply(app_bridge: BridgeProcess, where: str) -> None:
    reply, before = app_bridge.receive_for(app_bridge.send(f"events_{where}", {"n": 20}))
    assert reply[2] == "done"
    events = [message[2] for message in before]
    assert [event[a("trial")] for event in events[:20]] == list(range(20))
    assert events[0] == {a("kind"): a("progress"), a("trial"): 0, "seed": "0"}
    assert events[20] == {a("kind"): a("stream"), a("text"): "t"}
    assert events[21] == {a("kind"): a("log"), a("level"): a("info"), a("message"): "done"}


# -- calls to the client -----------------------------------------------------------------------------------------


def answer_calls(bridge: BridgeProcess, message_id: Any, function: Any) -> Any:
    """Serve the calls of a request until its final reply, which is returned."""
    while True:
        message = bridge.receive()
        if message[0] is a("call"):
            _, call_id, for_id, name, args = message
            assert (for_id, name) == (message_id, "double")
            bridge.answer_call(call_id, function(*args))
        elif message[1] == message_id:
            return message


@EVERYWHERE
def test_a_handler_calls_a_function_of_the_client(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"ask_{where}", {"n": 21})
    reply = answer_calls(app_bridge, message_id, lambda n: (a("ok"), n * 2))
    assert reply == (a("ok"), message_id, 42)


@EVERYWHERE
def test_a_handler_calls_from_many_threads_at_once(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"ask_many_{where}", {"n": 50})
    reply = answer_calls(app_bridge, message_id, lambda n: (a("ok"), n * 2))
    assert reply == (a("ok"), message_id, [n * 2 for n in range(50)])


@EVERYWHERE
def test_a_function_of_the_client_that_fails_is_a_callback_error(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"ask_{where}", {"n": 21})
    _, _, error = answer_calls(app_bridge, message_id, lambda n: (a("error"), "no such user"))
    assert error[a("error_type")] is a("callback_error")
    assert error[a("message")] == "the client's function double failed: no such user"


@EVERYWHERE
def test_an_atom_that_came_in_an_answer_may_go_back(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"ask_{where}", {"n": 21})
    reply = answer_calls(app_bridge, message_id, lambda n: (a("ok"), a("an_atom_of_the_answer")))
    assert reply == (a("ok"), message_id, a("an_atom_of_the_answer"))


def next_call(bridge: BridgeProcess) -> int:
    while (message := bridge.receive())[0] is not a("call"):
        assert message[0] is a("ok")  # that an answer before was taken
    return int(message[1])


@EVERYWHERE
def test_an_answer_may_come_in_pieces(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"ask_in_pieces_{where}", {"n": 21})
    call_id = next_call(app_bridge)
    for piece in ("a", a("piece_of_an_answer")):
        app_bridge.answer_call(call_id, (a("more"), piece))
    app_bridge.answer_call(call_id, (a("ok"), "whole"))
    assert app_bridge.receive_for(message_id)[0] == (a("ok"), message_id, [["a", a("piece_of_an_answer")], "whole"])
    late = app_bridge.ok("callback_result", {a("call_id"): call_id, a("result"): (a("more"), "too late")})
    assert late == {a("accepted"): False}


def test_a_callback_result_that_is_none_is_refused(app_bridge: BridgeProcess) -> None:
    message_id = app_bridge.send("ask_thread", {"n": 21})
    call_id = next_call(app_bridge)
    error = app_bridge.error("callback_result", {a("call_id"): call_id, a("result"): 42})
    assert error["message"] == "payload.result: expected {:ok, term}, {:error, term} or {:more, piece}, got 42"
    app_bridge.answer_call(call_id, (a("ok"), 42))
    assert app_bridge.receive_for(message_id)[0] == (a("ok"), message_id, 42)


@EVERYWHERE
def test_an_answer_that_nobody_waits_for_any_more_is_not_accepted(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"ask_{where}", {"n": 21})
    call_id = app_bridge.receive()[1]
    app_bridge.ok("cancel", {a("message_id"): message_id})
    app_bridge.receive_for(message_id)
    for wrong in (call_id, 10**9, "x"):
        result = app_bridge.ok("callback_result", {a("call_id"): wrong, a("result"): (a("ok"), 1)})
        assert result == {a("accepted"): False}


def test_an_inline_handler_cannot_wait_for_the_client(app_bridge: BridgeProcess) -> None:
    assert 'register it with run="thread"' in app_bridge.error("call_inline")["message"]


# -- the end of a request from outside ---------------------------------------------------------------------------


@EVERYWHERE
def test_cancel_ends_a_request_and_gives_the_best_so_far(app_bridge: BridgeProcess, where: str) -> None:
    message_id = app_bridge.send(f"hang_{where}")
    pid = app_bridge.receive()[2]["os_pid"]
    assert app_bridge.ok("cancel", {a("message_id"): message_id}) == {a("cancelled"): True}
    (tag, _, error), _ = app_bridge.receive_for(message_id)
    assert (tag, error[a("error_type")]) == (a("error"), a("cancelled"))
    assert error[a("context")] == {a("best"): {"score": 0.5}}
    if where == "job":
        wait_gone(pid)


@EVERYWHERE
def test_a_deadline_ends_a_request(app_bridge: BridgeProcess, where: str) -> None:
    timeout, events = 250, list[Any]()
    while not events:  # one that has not begun by then has more time the next time
        timeout *= 2
        (_, _, error), events = app_bridge.receive_for(app_bridge.send(f"hang_{where}", timeout_ms=timeout))
        assert error[a("error_type")] is a("timeout_error")
    assert error[a("recovery_strategy")] is a("retry")
    assert error[a("message")] == f"not done within {timeout} ms, so it was stopped"
    assert error[a("context")] == {a("timeout_ms"): timeout, a("best"): {"score": 0.5}}
    if where == "job":
        wait_gone(events[0][2]["os_pid"])


@pytest.mark.parametrize("name", ["stuck", "swallow"])
def test_a_job_that_does_not_stop_is_killed(app_bridge: BridgeProcess, name: str) -> None:
    message_id = app_bridge.send(name)
    pid = app_bridge.receive()[2]["os_pid"]
    app_bridge.ok("cancel", {a("message_id"): message_id})
    assert app_bridge.receive_for(message_id)[0][2][a("error_type")] is a("cancelled")
    wait_gone(pid)


def test_a_job_knows_how_long_it_has(app_bridge: BridgeProcess) -> None:
    assert app_bridge.ok("remaining") is None
    assert 0 < app_bridge.ok("remaining", timeout_ms=60_000) <= 60


def test_two_requests_in_flight_with_one_id_are_refused(app_bridge: BridgeProcess) -> None:
    message_id = app_bridge.send("hang_thread", message_id="twice")
    app_bridge.receive()
    app_bridge.send("ping", message_id="twice")
    error = app_bridge.receive()[2]
    assert error[a("message")] == 'message_id "twice" is in flight already; use another one'
    app_bridge.ok("cancel", {a("message_id"): message_id})
    assert app_bridge.receive_for(message_id)[0][2][a("error_type")] is a("cancelled")


# -- jobs that die -----------------------------------------------------------------------------------------------


def test_a_job_that_is_killed_costs_its_own_request_only(app_bridge: BridgeProcess) -> None:
    victim = app_bridge.send("hang_job", message_id="victim")
    pid = app_bridge.receive()[2]["os_pid"]
    other = app_bridge.send("hang_job", message_id="other")
    other_pid = app_bridge.receive()[2]["os_pid"]
    os.kill(pid, signal.SIGKILL)
    (_, _, error), _ = app_bridge.receive_for(victim)
    assert error[a("error_type")] is a("process_crashed")
    assert error[a("recovery_strategy")] is a("restart_process")
    assert (
        error[a("message")] == f"the job process {pid} was killed by signal 9 (SIGKILL); no other request was touched"
    )
    assert error[a("context")] == {a("os_pid"): pid, a("signal"): 9, a("best"): {"score": 0.5}}
    assert alive(other_pid)
    app_bridge.ok("cancel", {a("message_id"): other})
    app_bridge.receive_for(other)


@pytest.mark.parametrize(("name", "how"), [("segfault", "signal 11 (SIGSEGV)"), ("exit", "exit status 3")])
def test_a_job_that_crashes_is_an_error_that_says_how(app_bridge: BridgeProcess, name: str, how: str) -> None:
    error = app_bridge.error(name)
    assert error["error_type"] is a("process_crashed")
    assert how in error["message"]


def test_a_template_that_is_killed_costs_the_jobs_that_ran_and_the_next_is_served(app_bridge: BridgeProcess) -> None:
    message_id = app_bridge.send("hang_job")
    pid = app_bridge.receive()[2]["os_pid"]
    template = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(template, signal.SIGKILL)
    (_, _, error), _ = app_bridge.receive_for(message_id)
    assert error[a("error_type")] is a("process_crashed")
    wait_gone(pid)
    wait_gone(template)
    assert app_bridge.ok("echo_job", {"n": 1}) == {"n": 1}


def test_memory_over_the_limit_is_an_error_of_that_job() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", "--job-memory", str(200 * 2**20), cwd=HERE) as bridge:
        assert bridge.ok("allocate", {"bytes": 100 * 2**20}) == 100 * 2**20
        error = bridge.error("allocate", {"bytes": 300 * 2**20})
        assert error["error_type"] is a("resource_exhausted")
        assert error["recovery_strategy"] is a("restart_process")
        assert bridge.ok("allocate", {"bytes": 100 * 2**20}) == 100 * 2**20


# -- how many at once --------------------------------------------------------------------------------------------


def test_each_job_has_a_process_of_its_own_unless_it_leaves_it_for_the_next(app_bridge: BridgeProcess) -> None:
    assert app_bridge.ok("os_pid") != app_bridge.ok("os_pid")
    first = app_bridge.ok("os_pid_reuse")
    assert app_bridge.ok("os_pid_reuse") == first
    app_bridge.error("os_pid_reuse", {"fail": True})
    wait_gone(first)
    assert app_bridge.ok("os_pid_reuse") != first


def test_a_thread_that_a_request_left_cannot_speak_for_the_next_one(app_bridge: BridgeProcess) -> None:
    assert app_bridge.ok("leave_reuse") == "left"
    assert app_bridge.ok("leave_reuse") == ["Stopped"]


def test_a_process_left_for_the_next_hears_requests_and_answers_in_any_order(app_bridge: BridgeProcess) -> None:
    pids = set()
    for number, calls in enumerate((0, 1, 0, 0, 2, 1, 0)):
        text = "x" * (100_000 * number)  # more than is read at once
        message_id = app_bridge.send("ask_reuse", {"calls": calls, "text": text})
        for n in range(calls):
            tag, call_id, *_ = app_bridge.receive()
            assert tag is a("call")
            app_bridge.ok("callback_result", {a("call_id"): call_id, a("result"): (a("ok"), 2 * n)})
        (_, _, (pid, back, doubled)), _ = app_bridge.receive_for(message_id)
        assert (back, doubled) == (text, [2 * n for n in range(calls)])
        pids.add(pid)
    assert len(pids) == 1


def test_a_kept_process_that_died_meanwhile_is_not_used(app_bridge: BridgeProcess) -> None:
    pid = app_bridge.ok("os_pid_reuse")
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    message = app_bridge.call("os_pid_reuse")
    assert message[0] is a("ok") or message[2][a("error_type")] is a("process_crashed")
    assert app_bridge.ok("os_pid_reuse") != pid


def test_jobs_over_the_limit_wait_and_can_be_cancelled_while_they_wait() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", "--max-jobs", "1", cwd=HERE) as bridge:
        running = bridge.send("hang_job")
        bridge.receive()
        waiting, next_one = bridge.send("hang_job"), bridge.send("echo_job", {"n": 1})
        health = keys(bridge.ok("health_check"))
        assert (health["jobs_running"], health["jobs_waiting"], health["requests_in_flight"]) == (1, 2, 3)
        for message_id in (waiting, running):
            bridge.ok("cancel", {a("message_id"): message_id})
            assert bridge.receive_for(message_id)[0][2][a("error_type")] is a("cancelled")
        assert bridge.receive_for(next_one)[0] == (a("ok"), next_one, {"n": 1})


def test_requests_over_the_limit_are_refused() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", "--max-in-flight", "2", cwd=HERE) as bridge:
        hanging = [bridge.send("hang_thread"), bridge.send("hang_thread")]
        error = bridge.error("echo_thread")
        assert error["error_type"] is a("overloaded")
        assert error["message"] == "2 requests are in flight, which is the limit; try again later"
        assert bridge.ok("echo_inline", {"n": 1}) == {"n": 1}
        for message_id in hanging:
            bridge.ok("cancel", {a("message_id"): message_id})
            bridge.receive_for(message_id)
        assert bridge.ok("echo_thread", {"n": 1}) == {"n": 1}


def test_waiting_jobs_do_not_hold_up_threads(app_bridge: BridgeProcess) -> None:
    hanging = [app_bridge.send("hang_job") for _ in range(10)]
    assert app_bridge.ok("echo_thread", {"n": 1}) == {"n": 1}
    for message_id in hanging:
        app_bridge.ok("cancel", {a("message_id"): message_id})
        app_bridge.receive_for(message_id)


@EVERYWHERE
def test_a_handler_gets_the_trace_context_as_headers(app_bridge: BridgeProcess, where: str) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    both = {"traceparent": traceparent, "tracestate": "a=1"}
    assert app_bridge.ok(f"trace_{where}", **both) == both
    assert app_bridge.ok(f"trace_{where}", traceparent=traceparent, tracestate=1) == {"traceparent": traceparent}
    assert app_bridge.ok(f"trace_{where}") == {}
