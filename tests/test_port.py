"""The bridge process over real pipes: the wire, its own requests and its end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, ROOT, BridgeProcess, a, alive, keys, request, wait_gone

from erl_bridge import TermMap, etf
from erl_bridge.framing import pack

HERE = Path(__file__).parent


def test_hello_comes_first_and_says_what_the_server_is(bridge: BridgeProcess) -> None:
    hello = keys(bridge.hello)
    assert hello["protocol"] == 1
    assert hello["os_pid"] == bridge.process.pid
    assert hello["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {a("ping"), a("optimize_signature"), a("shutdown")} <= set(hello["request_types"])
    assert keys(hello["limits"])["max_frame_bytes"] == 64 * 1024 * 1024


@pytest.mark.parametrize(
    "term", [1, 2**4000, -1.5, "é", b"\xff", a("é"), None, True, [], [1, [2.0]], (), {}, {"k": a("v")}, set(), range(3)]
)
def test_ping_gives_back_what_it_got(app_bridge: BridgeProcess, term: Any) -> None:
    result = app_bridge.ok("ping", {"term": term})
    assert result == {"term": term}
    assert type(result["term"]) is type(term)


def test_ping_keeps_keys_that_python_would_merge(app_bridge: BridgeProcess) -> None:
    payload = TermMap([(1, "int"), (1.0, "float"), (True, "true"), ([1], "list")])
    assert app_bridge.ok("ping", payload) == payload


def test_health_check_tells_of_the_process(app_bridge: BridgeProcess) -> None:
    health = keys(app_bridge.ok("health_check"))
    assert health["status"] is a("healthy")
    assert health["os_pid"] == app_bridge.process.pid
    assert health["requests_in_flight"] == 0
    assert health["memory_bytes"] > 1_000_000


@pytest.mark.parametrize("message_id", [1, "id", a("id"), (1, [2.5]), {a("k"): [1]}, b"\xff", None])
def test_any_term_is_a_message_id(app_bridge: BridgeProcess, message_id: Any) -> None:
    app_bridge.send_bytes(pack(etf.encode(request(message_id, "ping", {"n": 1}))))
    assert app_bridge.receive() == (a("ok"), message_id, {"n": 1})


def test_an_unknown_request_is_told_what_there_is(app_bridge: BridgeProcess) -> None:
    error = app_bridge.error("pnig")
    assert error["error_type"] is a("unknown_request")
    assert error["recovery_strategy"] is a("fatal")
    assert error["message"].startswith("there is no request type pnig; there are allocate, ")


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        ("cancel", {}, "payload: the required key message_id is missing"),
        ("cancel", {a("id"): 1}, "payload: unknown key :id; the keys are message_id"),
        ("callback_result", {a("call_id"): 1}, "payload: the required key result is missing"),
        ("shutdown", {a("drain_ms"): "soon"}, 'payload.drain_ms: expected an integer from 0 to 4294967295, got "soon"'),
        ("shutdown", {a("drain"): 1}, 'payload: unknown key :drain (did you mean "drain_ms"?); the keys are drain_ms'),
        (
            "shutdown",
            {a("drain_ms"): 2**32},
            "payload.drain_ms: expected an integer from 0 to 4294967295, got 4294967296",
        ),
        ("health_check", {a("x"): 1}, "payload: unknown key :x; the keys are none"),
    ],
)
def test_a_bad_payload_of_the_bridges_own_requests_is_refused(
    app_bridge: BridgeProcess, name: str, payload: Any, message: str
) -> None:
    error = app_bridge.error(name, payload)
    assert (error["error_type"], error["message"]) == (a("invalid_request"), message)


def test_cancelling_what_is_not_there_is_no_error(app_bridge: BridgeProcess) -> None:
    assert app_bridge.ok("cancel", {a("message_id"): "nothing"}) == {a("cancelled"): False}


def test_bad_frames_are_refused_and_the_next_request_is_served() -> None:
    with BridgeProcess("--no-dspy", "--max-frame", "1000") as bridge:
        for data in (b"garbage", b"", b"x" * 1001, etf.encode({}) + b"\0", etf.encode([])):
            bridge.send_bytes(pack(data))
            tag, message_id, error = bridge.receive()
            assert (tag, message_id) == (a("error"), None)
            assert error[a("error_type")] in (a("serialization_error"), a("invalid_request"))
            assert bridge.ok("ping", {"n": 1}) == {"n": 1}


def test_a_frame_at_the_limit_is_served() -> None:
    data = etf.encode(request(1, "ping", {"blob": b"\xff" * 800}))
    with BridgeProcess("--no-dspy", "--max-frame", str(len(data))) as bridge:
        bridge.send_bytes(pack(data))
        assert bridge.receive()[0] is a("ok")


def test_requests_of_one_read_are_all_answered_in_order(app_bridge: BridgeProcess) -> None:
    app_bridge.send_bytes(b"".join(pack(etf.encode(request(f"r{i}", "ping", {"i": i}))) for i in range(500)))
    assert [app_bridge.receive() for _ in range(500)] == [(a("ok"), f"r{i}", {"i": i}) for i in range(500)]


def test_large_answers_keep_their_place_among_small_ones(app_bridge: BridgeProcess) -> None:
    sizes = [1, 300_000, 2, 70_000, 70_000, 3]
    data = b"".join(pack(etf.encode(request(n, "ping", {"x": "x" * n}))) for n in sizes)
    sender = threading.Thread(target=app_bridge.send_bytes, args=(data,))
    sender.start()
    assert [app_bridge.receive() for _ in sizes] == [(a("ok"), n, {"x": "x" * n}) for n in sizes]
    sender.join(DEADLINE)


@pytest.mark.parametrize("how", ["close", "SIGKILL", "SIGTERM"])
def test_no_process_is_left_when_the_client_goes_away_or_the_bridge_is_killed(how: str) -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=HERE) as bridge:
        pids = []
        for name in ("hang_job", "stuck"):
            bridge.send(name)
            event = bridge.receive()[2]
            pids.append(event["os_pid"])
        template = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
        pids.append(template)
        assert all(map(alive, pids))
        if how == "close":
            assert bridge.close() == 0
        else:
            bridge.process.send_signal(getattr(signal, how))
            bridge.process.wait(DEADLINE)
        for pid in pids:
            wait_gone(pid)


def test_the_end_of_input_ends_the_process_also_with_a_stuck_thread() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=HERE) as bridge:
        bridge.send("wait_for_release")
        bridge.receive()
        assert bridge.close() == 0


def test_shutdown_waits_for_what_runs_and_ends_with_status_0() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=HERE) as bridge:
        waiting = bridge.send("wait_for_release")
        assert bridge.receive()[0] is a("event")
        shutdown = bridge.send("shutdown", {a("drain_ms"): 60_000})
        assert keys(bridge.ok("health_check"))["status"] is a("draining")
        assert bridge.error("echo_thread")["error_type"] is a("overloaded")
        assert bridge.error("shutdown")["error_type"] is a("overloaded")
        bridge.send_bytes(b"")
        bridge.ok("cancel", {a("message_id"): waiting})
        assert bridge.receive_for(waiting)[0][2][a("error_type")] is a("cancelled")
        assert bridge.receive_for(shutdown)[0][2] == {a("finished"): 1, a("cancelled"): 0}
        assert bridge.receive() is None
        assert bridge.process.wait(DEADLINE) == 0


def test_shutdown_cancels_what_does_not_end_in_time() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=HERE) as bridge:
        hanging = bridge.send("hang_job")
        pid = bridge.receive()[2]["os_pid"]
        shutdown = bridge.send("shutdown", {a("drain_ms"): 0})
        error = bridge.receive_for(hanging)[0][2]
        assert error[a("error_type")] is a("cancelled")
        assert bridge.receive_for(shutdown)[0][2] == {a("finished"): 0, a("cancelled"): 1}
        assert bridge.process.wait(DEADLINE) == 0
        wait_gone(pid)


def test_a_cut_frame_at_the_end_of_input_is_answered() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "erl_bridge", "port", "--no-dspy"],
        input=pack(b"123456")[:6],
        capture_output=True,
        cwd=ROOT,
    )
    assert process.returncode == 0
    assert b"the input ended in the middle of a frame (6 bytes of it came)" in process.stdout


def test_the_protocol_may_use_descriptors_3_and_4() -> None:
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    # 3 and 4 may be in use here, so the child gets them by way of these
    high_in, high_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 40) for fd in (theirs_in, theirs_out))
    code = f"import os, sys; os.dup2({high_in}, 3); os.dup2({high_out}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-m", "erl_bridge", "port", "--no-dspy", "--fds", "3,4"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        pass_fds=(high_in, high_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    for fd in (theirs_in, theirs_out, high_in, high_out):
        os.close(fd)
    with os.fdopen(ours_in, "rb") as reader, os.fdopen(ours_out, "wb") as writer:
        hello = etf.decode(reader.read(int.from_bytes(reader.read(4), "big")))
        assert hello[0] is a("hello")
        writer.write(pack(etf.encode(request(1, "ping", {"n": 1}))))
        writer.close()
        assert etf.decode(reader.read(int.from_bytes(reader.read(4), "big"))) == (a("ok"), 1, {"n": 1})
        assert process.communicate(timeout=DEADLINE) == (b"", None)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--app", "nowhere"], 1, "expected package.module:name, got 'nowhere'"),
        (["--app", "not_a_module:app"], 1, "No module named 'not_a_module'"),
        (["--app", "handlers_app:release"], 1, "is not an erl_bridge.Bridge but Event"),
        (["--fds", "97,98"], 2, "descriptors (97, 98) are not open"),
        (["--fds", "3"], 2, "--fds: expected IN,OUT, got '3'"),
        (["--fds"], 2, "--fds: expected IN,OUT after it"),
        (["--max-jobs", "0"], 2, "--max-jobs: expected N, got '0'"),
        (["--spin-us", "-1"], 2, "--spin-us: expected N, got '-1'"),
        (["--max-jbos", "1"], 2, "there is no option --max-jbos; did you mean --max-jobs?"),
    ],
)
def test_a_command_line_that_does_not_fit_is_refused(arguments: list[str], status: int, message: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "erl_bridge", "port", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert (process.returncode, process.stdout) == (status, "")
    assert message in process.stderr
