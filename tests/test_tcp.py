"""The BERT-RPC server as a process: connections, limits, TLS, its end, and clients of the real BEAM."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bert_client import BertClient, BertServer, call, cast, info
from certificates import Certificates
from datasets_support import ROWS, compress, cut, dataset_id, stream
from support import DEADLINE, ROOT, a, alive, keys, wait_gone

from erl_bridge import etf
from erl_bridge import service as services
from erl_bridge.berp import Rules
from erl_bridge.dispatch import Capacity
from erl_bridge.framing import HEADER, pack
from erl_bridge.transports.tcp import Limits, TcpServer, listen
from erl_bridge.transports.tls import client_context

PING = call("system", "ping", {"n": 1})
PONG = (a("reply"), (a("ok"), (a("bert"), a("dict"), [("n", 1)])))


@pytest.fixture(scope="module")
def server() -> Iterator[BertServer]:
    with BertServer() as running:
        yield running


@pytest.fixture
def client(server: BertServer) -> Iterator[BertClient]:
    with server.client() as connected:
        yield connected


def fields(term: Any) -> dict[str, Any]:
    """A dictionary of BERT by the names of its keys."""
    assert term[:2] == (a("bert"), a("dict")), term
    return keys(dict(term[2]))


# -- requests ----------------------------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_another_in_order(client: BertClient) -> None:
    client.send(PING, call("app", "echo_thread", {"n": 2}), call("app", "echo_job", {"n": 3}), PING)
    results = [client.receive()[1][1] for _ in range(4)]
    assert [fields(result)["n"] for result in results] == [1, 2, 3, 1]


def test_a_connection_for_each_request_is_served_too(server: BertServer) -> None:
    for _ in range(20):
        with server.client() as client:
            client.send(PING)
            assert client.receive() == PONG


def test_a_request_that_takes_long_holds_up_no_other_connection(server: BertServer, client: BertClient) -> None:
    client.send(info("accept", a("events")), call("app", "wait_for_release"), PING)
    assert client.receive()[1] is a("event")
    with server.client() as other:
        assert other.ok("app", "release") == (a("bert"), None)
    assert client.receive() == (a("reply"), (a("ok"), "released"))
    assert client.receive() == PONG


def test_failures_of_handlers_are_errors_of_the_user(client: BertClient) -> None:
    for run in ("thread", "job"):
        kind, code, name, detail, backtrace = client.error("app", f"fail_{run}")
        assert (kind, code, name, detail) == ("user", 0, "python_runtime_error", "ValueError: no such thing")
        assert backtrace[-1] == "ValueError: no such thing"


def test_a_handler_that_calls_the_client_fails_with_the_reason(client: BertClient) -> None:
    for run in ("thread", "job"):
        _, _, name, detail, _ = client.error("app", f"ask_{run}", {"n": 1})
        assert name == "callback_error"
        assert detail.endswith("a client of BERT-RPC has no functions that can be called")


def answer(call_id: Any, result: Any) -> tuple[Any, ...]:
    return a("info"), a("answer"), {a("call_id"): call_id, a("result"): result}


def called(client: BertClient) -> dict[str, Any]:
    """What a client that takes calls is asked for."""
    info_, command, given = client.receive()
    assert (info_, command) == (a("info"), a("call"))
    return fields(given)


@pytest.mark.parametrize("run", ["thread", "job"])
def test_a_client_that_takes_calls_runs_functions_for_its_request(
    server: BertServer, client: BertClient, run: str
) -> None:
    client.send(info("accept", a("calls")), call("app", f"ask_{run}", {"n": 21}))
    asked = called(client)
    assert (asked["name"], asked["args"]) == ("double", [21])
    with server.client() as another:  # ids can be guessed, but only who was asked may answer
        another.send(answer(asked["call_id"], (a("ok"), "not yours")))
        assert another.ok("system", "ping", {}) == (a("bert"), a("dict"), [])
    large = "x" * 300_000
    client.send(answer(asked["call_id"], (a("ok"), large)))
    assert client.receive() == (a("reply"), (a("ok"), large))
    client.send(answer(asked["call_id"], (a("ok"), "late")), call("app", f"ask_{run}", {"n": 2}))
    client.send(answer(called(client)["call_id"], (a("error"), "no such number")))
    error, (_, _, name, detail, _) = client.receive()
    assert (error, name) == (a("error"), "callback_error")
    assert "no such number" in detail


def test_many_calls_are_answered_in_any_order_and_in_pieces(client: BertClient) -> None:
    client.send(info("accept", a("calls")), call("app", "ask_many_thread", {"n": 8}))
    asked = [called(client) for _ in range(8)]
    client.send(*(answer(one["call_id"], (a("ok"), 2 * one["args"][0])) for one in reversed(asked)))
    assert client.receive() == (a("reply"), (a("ok"), [2 * n for n in range(8)]))
    client.send(call("app", "ask_in_pieces_thread", {"n": 1}))
    call_id = called(client)["call_id"]
    client.send(*(answer(call_id, (a(kind), n)) for kind, n in [("more", 1), ("more", 2), ("ok", 3)]))
    assert client.receive() == (a("reply"), (a("ok"), [[1, 2], 3]))


def test_who_takes_calls_can_cancel_over_the_same_connection(client: BertClient) -> None:
    client.send(info("accept", a("calls")), call("app", "ask_thread", {"n": 1}))
    called(client)
    client.send(info("cancel"), info("cancel"), call("system", "ping", {}))
    assert client.receive()[1][2] == "cancelled"
    assert client.receive()[0] is a("reply")


def test_an_answer_that_is_none_costs_the_connection(server: BertServer, client: BertClient) -> None:
    client.send(info("accept", a("calls")), call("app", "ask_thread", {"n": 1}))
    client.send(answer(called(client)["call_id"], "fourteen"))
    error, (kind, _, name, detail, _) = client.receive()
    assert (error, kind, name) == (a("error"), a("protocol"), "bad_info")
    assert "payload.result" in detail
    assert client.receive() is None
    with server.client() as another:
        assert another.ok("system", "ping", {}) == (a("bert"), a("dict"), [])


def test_a_request_behind_one_that_calls_waits_and_so_does_what_is_behind_it(client: BertClient) -> None:
    timeout, begun = 50, False
    while not begun:  # one that has not begun by then has more time the next time
        accept, deadline = info("accept", a("calls")), info("metadata", (a("timeout_ms"), timeout))
        client.send(accept, deadline, call("app", "ask_thread", {"n": 1}), call("system", "ping", {}))
        kind, *rest = client.receive()
        if begun := kind is a("info"):
            client.send(answer(fields(rest[1])["call_id"], (a("ok"), 2)))
            kind, *rest = client.receive()
        assert (kind, rest[0][2]) == (a("error"), "timeout_error")
        assert client.receive()[0] is a("reply")
        timeout *= 2


def test_what_a_client_must_not_do_cannot_be_called(client: BertClient) -> None:
    for module, function in [
        ("system", "shutdown"),
        ("system", "callback_result"),
        ("os", "system"),
        ("app", "__init__"),
    ]:
        kind, code, *_ = client.error(module, function)
        assert (kind, code) in [("server", 1), ("server", 2)]


def test_health_says_what_runs(client: BertClient) -> None:
    assert fields(client.ok("system", "health_check"))["status"] is a("healthy")


def test_a_request_is_cancelled_by_its_id_from_another_connection(server: BertServer, client: BertClient) -> None:
    named = info("metadata", (a("message_id"), {"job": [1]}))
    for run in ("thread", "job"):
        client.send(info("accept", a("events"), a("errors")), named, call("app", f"hang_{run}"))
        assert client.receive()[1] is a("event")
        with server.client() as other:
            taken = other.call("app", "echo_thread", {})  # an id of its own does not clash
            assert taken[0] is a("reply")
            other.send(named, call("app", "echo_thread", {}))
            assert other.receive()[1][2] == "invalid_request"
            assert other.ok("system", "cancel", {"message_id": {"job": [2]}})[2] == [
                (a("cancelled"), (a("bert"), False))
            ]
            assert other.ok("system", "cancel", {"message_id": {"job": [1]}})[2] == [
                (a("cancelled"), (a("bert"), True))
            ]
        _, (_, error) = client.receive()
        assert fields(error)["error_type"] is a("cancelled")
        assert fields(fields(error)["context"])["best"] == (a("bert"), a("dict"), [("score", 0.5)])


def test_a_client_that_goes_away_cancels_its_request(server: BertServer) -> None:
    with server.client() as client:
        client.send(info("accept", a("events")), call("app", "hang_job"))
        os_pid = fields(client.receive()[2])["os_pid"]
        assert alive(os_pid)
    wait_gone(os_pid)


def test_a_deadline_is_kept(client: BertClient) -> None:
    client.send(info("metadata", (a("timeout_ms"), 50)), call("app", "hang_thread"))
    assert client.receive()[1][2] == "timeout_error"


def test_streams_go_both_ways(client: BertClient) -> None:
    client.send(info("stream"), call("app", "upload", {"name": "f"}))
    client.send_bytes(pack(b"x" * 100_000), pack(b"y"), bytes(4))
    assert fields(client.receive()[1][1]) == {"bytes": 100_001, "name": "f"}
    for run in ("thread", "job"):
        client.send(info("accept", a("streams")), call("app", f"download_{run}", {"n": 3}))
        assert client.receive() == (a("info"), a("stream"), [])
        assert client.receive() == (a("reply"), (a("ok"), (a("bert"), None)))
        assert [client.receive_bytes() for _ in range(4)] == [b"0,", b"1,", b"2,", b""]
    assert client.call("app", "download_thread", {"n": 0}) == (a("reply"), (a("ok"), "not sent"))


def test_a_stream_that_fails_half_way_is_cut(client: BertClient) -> None:
    client.send(info("accept", a("streams")), call("app", "download_thread", {"n": 1, "fail": True}))
    assert client.receive()[0] is a("info")
    assert client.receive()[0] is a("reply")
    assert client.receive_bytes() == b"0,"
    assert client.receive_bytes() is None


# -- casts and callbacks -----------------------------------------------------------------------------------------


class Service:
    """Where results of casts are sent to."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.listener = socket.create_server((host, 0))
        self.listener.settimeout(DEADLINE)
        self.address = "{}:{}".format(*self.listener.getsockname())

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def receive(self) -> Any:
        sock, _ = self.listener.accept()
        with sock, sock.makefile("rb") as file:
            size = int.from_bytes(file.read(HEADER), "big")
            return etf.decode(file.read(size))


def callback(service: str) -> tuple[Any, ...]:
    return info("callback", (a("service"), service), (a("mfa"), a("shop"), a("told"), ["first"]))


def test_a_cast_is_answered_at_once_and_told_of_where_the_client_wants(server: BertServer) -> None:
    with Service() as service:
        for run in ("inline", "thread", "job"):
            with server.client() as client:
                client.send(callback(service.address), cast("app", f"echo_{run}", {"n": 1}))
                assert client.receive() == (a("noreply"),)
            assert service.receive() == (
                a("cast"),
                a("shop"),
                a("told"),
                ["first", (a("ok"), (a("bert"), a("dict"), [("n", 1)]))],
            )
        with server.client() as client:
            client.send(callback(service.address), cast("app", "fail_thread"), cast("app", "fail_thread"))
            assert [client.receive(), client.receive()] == [(a("noreply"),)] * 2
        error = service.receive()[3][1]
        assert error[0] is a("error")
        assert fields(error[1])["python_type"] == "ValueError"


def test_a_cast_of_what_is_not_there_is_refused(client: BertClient) -> None:
    client.send(cast("app", "nothing"))
    assert client.receive()[1][:2] == (a("server"), 2)


def test_callbacks_go_to_no_other_host_unless_it_is_listed() -> None:
    with Service() as own, Service("127.0.0.2") as other:
        with BertServer() as running, running.client() as client:  # from 127.0.0.1
            client.send(callback(other.address), cast("app", "echo_inline", {}))
            client.send(callback("no port"), cast("app", "echo_inline", {}))
            client.send(callback(own.address), cast("app", "echo_inline", {}))
            assert [client.receive() for _ in range(3)] == [(a("noreply"),)] * 3
            assert own.receive()[0] is a("cast")
            refused = sorted(running.process.stderr.readline().decode() for _ in range(2))
        no_host = f"callback to {other.address} not made: 127.0.0.2 is neither the host that the cast came from nor"
        assert no_host in refused[0]
        assert "callback to no port not made: expected host:port" in refused[1]
        with BertServer("--callback-hosts", "example.org,127.0.0.2") as running, running.client() as client:
            client.send(callback(other.address), cast("app", "echo_inline", {}))
            assert client.receive() == (a("noreply"),)
            assert other.receive()[0] is a("cast")


# -- what costs a connection, and nothing else -------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", pack(b""), pack(b"garbage"), b"\xff\xff\xff\xff", pack(b"\x83j\0")]
)
def test_malformed_frames_are_told_of_and_cost_the_connection(
    server: BertServer, client: BertClient, data: bytes
) -> None:
    client.send_bytes(data)
    error, (kind, code, *_) = client.receive()
    assert (error, kind) == (a("error"), a("protocol"))
    assert code in (1, 2)
    assert client.receive() is None
    with server.client() as other:
        assert other.call("system", "ping", {"n": 1}) == PONG


def test_terms_that_are_no_packets_cost_nothing(client: BertClient) -> None:
    client.send(a("call"), PING)
    assert client.receive()[1][0] is a("protocol")
    assert client.receive() == PONG


def test_clients_that_leave_at_any_byte_leave_nothing_behind(server: BertServer) -> None:
    data = pack(etf.encode(info("stream"))) + pack(etf.encode(call("app", "upload", {}))) + pack(b"abc")
    with server.client() as watching:
        for size in range(len(data)):
            with server.client() as client:
                client.send_bytes(data[:size])
                if size % 2:  # some with a reset
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert watching.call("system", "ping", {"n": 1}) == PONG
        assert fields(watching.ok("system", "health_check"))["requests_in_flight"] == 0


def test_random_bytes_end_no_server(server: BertServer) -> None:
    chance = random.Random(11)
    for _ in range(50):
        body = bytearray(pack(etf.encode(call("app", "echo_inline", {"n": [1, 2.5, a("x")]}))) * 3)
        for _ in range(chance.randint(1, 5)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        with server.client() as client:
            client.send_bytes(body)
            client.socket.shutdown(socket.SHUT_WR)
            try:
                while client.socket.recv(65536):
                    pass
            except ConnectionResetError:
                continue
    with server.client() as client:
        assert client.call("system", "ping", {"n": 1}) == PONG


# -- limits ------------------------------------------------------------------------------------------------------


def test_there_are_so_many_connections_and_no_more() -> None:
    with BertServer("--max-connections", "2") as running, running.client() as first, running.client() as second:
        assert [client.call("system", "ping", {"n": 1}) for client in (first, second)] == [PONG, PONG]
        with running.client() as third:
            error, (kind, _, name, detail, _) = third.receive()
            assert (error, kind, name) == (a("error"), a("server"), "overloaded")
            assert detail == "there are 2 connections, which is the limit; try again later"
            assert third.receive() is None
        second.send(etf.encode(0))  # closes after the answer: no packet but a binary
        assert second.receive()[0] is a("error")
        second.socket.close()
        for _ in range(1000):
            with running.client() as again:
                again.send(PING)
                if again.receive() == PONG:
                    break
        else:
            pytest.fail("the place of the one that left was never free")


def test_what_takes_too_long_is_left() -> None:
    with BertServer("--idle-timeout", "1", "--read-timeout", "0.3") as running:
        with running.client() as idle:
            assert idle.call("system", "ping", {"n": 1}) == PONG
            assert idle.receive() is None
        with running.client() as slow:
            slow.send_bytes(pack(etf.encode(PING))[:10])
            assert slow.receive()[1][2:4] == ("timeout", "the request did not come within 0.3 s")
            assert slow.receive() is None
        with running.client() as busy:  # what takes long here is not the client's fault
            busy.send(info("metadata", (a("timeout_ms"), 1200)), call("app", "hang_thread"))
            assert busy.receive()[1][2] == "timeout_error"


def test_requests_in_flight_are_limited() -> None:
    with BertServer("--max-in-flight", "1") as running, running.client() as first, running.client() as second:
        first.send(info("accept", a("events")), call("app", "wait_for_release"))
        assert first.receive()[1] is a("event")
        assert second.error("app", "echo_thread", {})[:3] == ("server", 0, "overloaded")
        second.send(cast("app", "echo_thread", {}))
        assert second.receive()[1][2] == "overloaded"
        second.ok("app", "release")
        assert first.receive()[0] is a("reply")


def test_a_client_that_does_not_read_its_events_is_left() -> None:
    with BertServer() as running, running.client() as reader, running.client() as sleeper:
        sleeper.send(info("accept", a("events")), call("app", "flood"))
        assert sleeper.receive()[1] is a("event")
        while fields(reader.ok("system", "health_check"))["requests_in_flight"]:
            pass
        assert fields(reader.ok("system", "health_check"))["memory_bytes"] < 400_000_000


def test_a_client_that_does_not_read_its_replies_asks_nothing_more() -> None:
    payload = {"text": "x" * 1_000_000}
    with BertServer("--read-timeout", "1") as running, running.client() as sleeper, running.client() as reader:

        def send_all() -> None:
            try:
                for _ in range(1000):
                    sleeper.send(call("app", "echo_inline", payload))
            except OSError:
                return  # it was left: after a second without taking a byte

        sender = threading.Thread(target=send_all)
        sender.start()
        sender.join(DEADLINE)
        assert not sender.is_alive()
        assert fields(reader.ok("system", "health_check"))["memory_bytes"] < 150_000_000


def test_bytes_of_requests_that_are_not_whole_are_limited_for_all_clients_together() -> None:
    served = services.Service("", False, Capacity(), 0, {})
    listener = listen("127.0.0.1", 0)
    host, port = listener.getsockname()
    rules = Rules(services.exposed([], served), token=b"", max_frame=1_000_000)
    server = TcpServer(listener, rules, Limits(max_unread=1_000_000))
    dispatcher = served.dispatcher(server.finish)
    thread = threading.Thread(target=server.serve, args=(dispatcher,))
    data = pack(etf.encode(call("system", "ping", {"large": "x" * 700_000})))
    thread.start()
    try:
        with BertClient(host, port) as one, BertClient(host, port) as another:
            for client in (one, another):
                client.send_bytes(data[:600_000])
            # The two hold more than there is room for: one of them is told, and its place is the other's.
            told, _, _ = select.select([one.socket, another.socket], [], [], DEADLINE)
            left, stays = (one, another) if told == [one.socket] else (another, one)
            error, (kind, _, name, _, _) = left.receive()
            assert (error, kind, name) == (a("error"), a("server"), "overloaded")
            stays.send_bytes(data[600_000:])
            assert stays.receive()[0] is a("reply")
    finally:
        server.stop()
        thread.join(DEADLINE)
        dispatcher.close()
        served.datasets.close(keep=True)


def test_large_frames_pass_up_to_the_limit() -> None:
    with BertServer("--max-frame", "3000000") as running, running.client() as client:
        text = "x" * 2_900_000
        assert fields(client.ok("app", "echo_thread", {"text": text}))["text"] == text
        client.send_bytes((3_000_001).to_bytes(4, "big"))
        assert client.receive()[1][:2] == (a("protocol"), 1)
        assert client.receive() is None


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_a_dataset_is_sent_over_connections_that_come_and_go_and_read_by_a_job(
    tmp_path: Path, compression: str
) -> None:
    chunks = cut(compress(stream(ROWS), compression), 4000)
    last = len(chunks) - 1

    def send(client: BertClient, index: int) -> dict[str, Any]:
        chunk = {"transfer_id": b"t", "chunk_index": index, "data": chunks[index], "is_final": index == last}
        return fields(client.ok("dataset", "data_chunk", chunk))

    with BertServer(ERL_BRIDGE_HOME=str(tmp_path)) as server, server.client() as client:
        client.ok("dataset", "dataset_begin", {"transfer_id": b"t", "compression": a(compression)})
        with server.client() as other:  # which is gone before the transfer is complete
            assert send(other, last) == {"received": 1, "next": 0}
        for index in range(last):
            answer = send(client, index)
        assert (answer["dataset_id"], answer["rows"]) == (dataset_id(ROWS), len(ROWS))
        again = client.ok("dataset", "dataset_begin", {"transfer_id": b"u", "dataset_id": dataset_id(ROWS)})
        assert fields(again)["rows"] == len(ROWS)
        held = fields(client.ok("app", "rows_job", {"rows": {"dataset": dataset_id(ROWS)}}))
        assert (held["count"], held["sum"]) == (len(ROWS), sum(row["id"] for row in ROWS))
        assert fields(held["last"])["question"] == ROWS[-1][a("question")]
        _, _, name, detail, _ = client.error(
            "dataset", "data_chunk", {"transfer_id": b"v", "chunk_index": 0, "data": b""}
        )
        assert (name, detail) == ("transfer_error", "there is no such transfer; it was dropped, or never begun")


# -- who gets in -------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    for arguments, env in ((["--token-file", str(file)], {}), (["--token-env", "T"], {"T": "s3cret"})):
        with BertServer(*arguments, **env) as running:
            with running.client() as client:
                client.send(info("auth", (a("token"), "s3cret")), PING, PING)
                assert [client.receive(), client.receive()] == [PONG, PONG]
            for packet in (PING, info("auth", (a("token"), "wrong"))):
                with running.client() as client:
                    client.send(packet)
                    assert client.receive()[1][2] == "unauthorized"
                    assert client.receive() is None
            status, stderr = running.stop()
        assert status == 0
        assert "s3cret" not in stderr


def test_tls_lets_in_who_has_a_certificate(certificates: Certificates) -> None:
    files = ["--tls-cert", certificates.server, "--tls-key", certificates.server_key, "--tls-ca", certificates.ca]
    with BertServer(*files) as running:
        known = client_context(certificates.ca, certificates.client, certificates.client_key)
        with running.client(known) as client:
            text = "x" * 300_000
            assert fields(client.ok("app", "echo_thread", {"text": text}))["text"] == text
            client.send(*[PING] * 100)
            assert [client.receive() for _ in range(100)] == [PONG] * 100
            client.send_bytes(pack(b"garbage"))
            assert client.receive()[1][0] is a("protocol")
            assert client.receive() is None
        assert answer_without(certificates, running) == ""
        with running.client() as plain:
            plain.send(PING)
            assert plain_answer(plain) == b""
        with running.client(known) as client:
            assert client.call("system", "ping", {"n": 1}) == PONG


def answer_without(certificates: Certificates, running: BertServer) -> Any:
    """What a client without a certificate gets; with TLS 1.3 it hears of that only after it has asked."""
    try:
        with running.client(client_context(certificates.ca)) as client:
            return client.call("system", "ping", {})
    except OSError:
        return ""


def plain_answer(client: BertClient) -> bytes:
    """What a server of TLS says to who does not speak it: at most an alert."""
    try:
        return client.socket.recv(100)[7:]
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--tls-cert", "/nowhere.pem"], 2, "the certificate /nowhere.pem with the key /nowhere.pem cannot be used"),
        (["--token-file", "/nowhere"], 2, "No such file or directory: '/nowhere'"),
        (["--token-env", "NOT_SET"], 2, "the token in NOT_SET is empty"),
        (["--expose", "os.system"], 2, "there is no module or function os.system; there are system.ping, "),
        (["--host", "192.0.2.1"], 2, "erl_bridge tcp: "),
        (["--port", "x"], 2, "--port: expected N, got 'x'"),
        (["--idle-timeout", "0"], 2, "--idle-timeout: expected SECONDS, got '0'"),
        (["--app", "nowhere:app"], 1, "--app: cannot load nowhere:app"),
        (["--token", "s3cret"], 2, "there is no option --token"),
    ],
)
def test_what_is_wrong_with_the_options_is_said(arguments: list[str], status: int, message: str) -> None:
    command = [sys.executable, "-m", "erl_bridge", "tcp", "--no-dspy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == status
    assert message in done.stderr


def test_what_is_exposed_can_be_chosen() -> None:
    with BertServer("--expose", "system,shop.price") as running, running.client() as client:
        assert client.error("app", "echo_inline")[:2] == ("server", 1)
        assert client.error("shop", "stock")[:2] == ("server", 2)
        client.send(call("shop", "price", {}))
        assert client.receive() == (a("info"), a("cache"), [(a("access"), a("public")), (a("expiration"), 60)])
        assert client.receive()[0] is a("reply")
        assert client.ok("system", "shutdown", {})[2] == [(a("finished"), 0), (a("cancelled"), 0)]
        assert client.receive() is None
        assert running.process.wait(DEADLINE) == 0


# -- the end -----------------------------------------------------------------------------------------------------


def test_sigterm_lets_requests_finish_and_takes_no_new_ones() -> None:
    with BertServer() as running, running.client() as idle, running.client() as busy, running.client() as asking:
        asking.send_bytes(b"\0")  # it has begun to ask
        busy.send(info("accept", a("calls")), call("app", "ask_thread", {"n": 1}))
        asked = called(busy)
        running.process.send_signal(signal.SIGTERM)
        assert idle.receive() is None
        with pytest.raises(ConnectionRefusedError):
            running.client()
        asking.send_bytes(pack(etf.encode(call("app", "echo_inline", {})))[1:])
        assert asking.receive()[1][2] == "overloaded"
        busy.send(answer(asked["call_id"], (a("ok"), 2)))
        assert busy.receive() == (a("reply"), (a("ok"), 2))
        assert busy.receive() is None
        assert running.process.wait(DEADLINE) == 0


def test_a_second_sigterm_ends_it_at_once() -> None:
    with BertServer("--drain-ms", "100000") as running, running.client() as idle, running.client() as busy:
        busy.send(info("accept", a("events")), call("app", "hang_thread"))
        assert busy.receive()[1] is a("event")
        running.process.send_signal(signal.SIGTERM)
        assert idle.receive() is None
        running.process.send_signal(signal.SIGTERM)
        assert busy.receive() is None
        assert running.process.wait(DEADLINE) == 0


def test_sigterm_cancels_what_does_not_finish_in_time() -> None:
    with BertServer("--drain-ms", "100") as running, running.client() as client:
        client.send(info("accept", a("events")), call("app", "hang_job"))
        os_pid = fields(client.receive()[2])["os_pid"]
        running.process.send_signal(signal.SIGTERM)
        assert client.receive()[1][2] == "cancelled"
        assert client.receive() is None
        assert running.process.wait(DEADLINE) == 0
        wait_gone(os_pid)


# -- clients of the real BEAM ------------------------------------------------------------------------------------

ERLANG = """
Port = list_to_integer(os:getenv("BERT_PORT")),
{ok, S} = gen_tcp:connect({127,0,0,1}, Port, [binary, {packet, 4}, {active, false}]),
Call = fun(M, F, A) ->
    ok = gen_tcp:send(S, term_to_binary({call, M, F, A})),
    {ok, Bin} = gen_tcp:recv(S, 0),
    binary_to_term(Bin)
end,
{reply, {ok, {bert, dict, Pairs}}} = Call(system, ping, [#{<<"n">> => 1, x => [1.5, nil, true, "text", <<"bin">>]}]),
[{x, [1.5, {bert, nil}, {bert, true}, "text", <<"bin">>]}, {<<"n">>, 1}] = lists:sort(Pairs),
{error, {server, 1, <<"no_such_module">>, _, []}} = Call(os, cmd, [<<"ls">>]),
{reply, {ok, {bert, dict, [{<<"answer">>, Answer}]}}} =
    Call(dspy, predict, [#{signature => <<"question -> answer">>, inputs => #{<<"question">> => <<"why?">>},
                           lm => <<"local/nearest-demo">>}]),
true = is_binary(Answer),
Send = fun(Term) -> ok = gen_tcp:send(S, term_to_binary(Term)) end,
Receive = fun() -> {ok, Bin} = gen_tcp:recv(S, 0), binary_to_term(Bin) end,
Send({cast, system, ping, []}),
{ok, <<131, 104, 1, 100, 0, 7, "noreply">>} = gen_tcp:recv(S, 0),
{ok, L} = gen_tcp:listen(0, [binary, {packet, 4}, {active, false}, {ip, {127,0,0,1}}]),
{ok, Here} = inet:port(L),
Service = iolist_to_binary(io_lib:format("127.0.0.1:~b", [Here])),
Send({info, callback, [{service, Service}, {mfa, shop, told, [1]}]}),
{noreply} = Call2 = (fun() -> Send({cast, app, echo_thread, [#{n => 2}]}), Receive() end)(),
{ok, Back} = gen_tcp:accept(L),
{ok, Told} = gen_tcp:recv(Back, 0),
{cast, shop, told, [1, {ok, {bert, dict, [{n, 2}]}}]} = binary_to_term(Told),
{info, cache, [{access, public}, {expiration, 60}]} = Call(shop, price, [#{}]),
{reply, {ok, _}} = Receive(),
{info, cache, Keep} = Call(shop, stock, [#{}]),
{reply, {ok, _}} = Receive(),
Send({info, cache, [lists:keyfind(validation, 1, Keep)]}),
{info, valid, []} = Call(shop, stock, [#{}]),
Call2 = Receive(),
Send({info, stream, []}),
Send({call, app, upload, [#{}]}),
[ok = gen_tcp:send(S, Chunk) || Chunk <- [<<"one">>, <<"three">>, <<>>]],
{reply, {ok, {bert, dict, Sizes}}} = Receive(),
{_, 8} = lists:keyfind(<<"bytes">>, 1, Sizes),
Send({info, accept, [calls, streams]}),
{info, stream, []} = Call(app, download_thread, [#{<<"n">> => 2}]),
{reply, {ok, {bert, nil}}} = Receive(),
[<<"0,">>, <<"1,">>, <<>>] = [element(2, gen_tcp:recv(S, 0)) || _ <- [1, 2, 3]],
{info, call, {bert, dict, Asked}} = Call(app, ask_job, [#{<<"n">> => 21}]),
[{args, [21]}, {call_id, Id}, {name, <<"double">>}] = lists:sort(Asked),
Send({info, answer, #{call_id => Id, result => {ok, 42}}}),
{reply, {ok, 42}} = Receive(),
io:format("done~n"), halt(0).
"""


@pytest.mark.skipif(shutil.which("erl") is None, reason="there is no Erlang")
def test_a_client_in_erlang_speaks_with_the_server(tmp_path: Path) -> None:
    with BertServer(dspy=True) as running:
        done = subprocess.run(
            ["erl", "-noshell", "-eval", ERLANG],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env={**os.environ, "BERT_PORT": str(running.port)},
            check=False,
            cwd=tmp_path,
        )
    assert done.stdout == "done\n", done
