"""EPMD's messages and the handshake, from bytes that BEAMs sent, and everything else that could come in their place."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erl_bridge.wire import capabilities, epmd
from erl_bridge.wire.handshake import MAX_PACKET, Acceptor, HandshakeError, Initiator, Own, Peer, Yielded, standing

COOKIE = b"secret"
FLAGS = 0xD07DF7FBD  # what OTP 25 and 27 announce
A, B = "a@127.0.0.1", "otp25@127.0.0.1"
OWN_A = Own(A, 0x6B045F5F, COOKIE, FLAGS)
OWN_B = Own(B, 0x6B04600D, COOKIE, FLAGS)
# Two nodes of OTP 25 get acquainted.
NAME = bytes.fromhex("001a4e0000000d07df7fbd6b045f5f000b") + A.encode()
STATUS = bytes.fromhex("0003736f6b")
CHALLENGE = bytes.fromhex("00224e0000000d07df7fbd5d730ab26b04600d000f") + B.encode()
REPLY = bytes.fromhex("001572aba645980c7c0766480311b2bc40336edc786949")
ACK = bytes.fromhex("0011617d9d73f66b1b6b0c310aae122f668948")
CHALLENGE_A, CHALLENGE_B = 0xABA64598, 0x5D730AB2


def ok(name: str) -> str:
    return "ok"


# -- EPMD ------------------------------------------------------------------------------------------------------


def test_a_node_is_registered_as_hidden_and_gets_its_creation() -> None:
    assert epmd.register("a", 0xA98F) == bytes.fromhex("000e78a98f480000060005000161" + "0000")
    assert epmd.registered(bytes.fromhex("76006b045f5f")) == 0x6B045F5F
    assert epmd.registered(bytes.fromhex("79000003")) == 3  # an EPMD of before OTP 23


@pytest.mark.parametrize("answer", ["76006b045f5f", "79000003"])
def test_a_cut_answer_to_the_registration_is_waited_for(answer: str) -> None:
    data = bytes.fromhex(answer)
    assert [epmd.registered(data[:size]) for size in range(len(data))] == [None] * len(data)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(epmd.EpmdError, match="registered already"):
        epmd.registered(bytes.fromhex("760100000063"))


def test_a_node_is_looked_up() -> None:
    assert epmd.lookup("otp25") == bytes.fromhex("00067a6f74703235")
    answer = bytes.fromhex("77008f4f4d00000600050005") + b"otp25\0\0"
    assert epmd.found(answer) == epmd.Listed("otp25", 0x8F4F)
    assert epmd.found(bytes.fromhex("7701")) is None


def test_the_list_of_names_is_read() -> None:
    assert epmd.names() == bytes.fromhex("00016e")
    assert epmd.listed(b"\0\0\x11\x11name otp25 at port 36687\n") == {"otp25": 36687}


@given(st.binary(max_size=40))
def test_whatever_epmd_says_is_an_answer_or_an_epmd_error(data: bytes) -> None:
    for read in (epmd.registered, epmd.found, epmd.listed):
        for answer in (data, b"\x76" + data, b"\x77\0" + data, bytes(4) + data):
            try:
                read(answer)
            except epmd.EpmdError:
                continue


# -- the handshake of two BEAMs ----------------------------------------------------------------------------------


def test_the_initiator_says_what_a_beam_says() -> None:
    initiator = Initiator(OWN_A, B, CHALLENGE_A)
    assert initiator.begin() == NAME
    assert initiator.receive(STATUS) == b""
    assert initiator.receive(CHALLENGE) == REPLY
    assert initiator.receive(ACK + b"rest") == b""
    assert initiator.peer == Peer(B, FLAGS, 0x6B04600D, A, 0x6B045F5F)
    assert initiator.rest == b"rest"


def test_the_acceptor_says_what_a_beam_says() -> None:
    acceptor = Acceptor(OWN_B, CHALLENGE_B, ok)
    assert acceptor.receive(NAME) == STATUS + CHALLENGE
    assert acceptor.receive(REPLY) == ACK
    assert acceptor.peer == Peer(A, FLAGS, 0x6B045F5F, B, 0x6B04600D)


def test_over_tls_the_lengths_have_four_bytes() -> None:
    acceptor = Acceptor(OWN_B, CHALLENGE_B, ok, header=4)
    assert acceptor.receive(b"\0\0" + NAME) == b"\0\0" + STATUS + b"\0\0" + CHALLENGE
    assert acceptor.receive(b"\0\0" + REPLY) == b"\0\0" + ACK


def test_the_stream_may_be_cut_anywhere() -> None:
    for make, first, data, expected in (
        (lambda: Initiator(OWN_A, B, CHALLENGE_A), b"", STATUS + CHALLENGE + ACK, REPLY),
        (lambda: Acceptor(OWN_B, CHALLENGE_B, ok), b"", NAME + REPLY, STATUS + CHALLENGE + ACK),
    ):
        whole = make()
        assert b"".join(whole.receive(bytes([byte])) for byte in data) == expected
        assert whole.peer is not None
        for size in range(len(data)):
            cut = make()
            assert expected.startswith(first + cut.receive(data[:size]))
            assert cut.peer is None


@given(st.binary(max_size=60), st.integers(0, 80), st.booleans())
def test_whatever_comes_is_taken_or_a_handshake_error(noise: bytes, at: int, initiator: bool) -> None:
    good = STATUS + CHALLENGE + ACK if initiator else NAME + REPLY
    side: Any = Initiator(OWN_A, B, CHALLENGE_A) if initiator else Acceptor(OWN_B, CHALLENGE_B, ok)
    try:
        side.receive(good[:at] + noise)
    except HandshakeError:
        return


# -- what is refused ---------------------------------------------------------------------------------------------


def name_packet(name: bytes, flags: int = FLAGS, creation: int = 1) -> bytes:
    body = pack(">cQIH", b"N", flags, creation, len(name)) + name
    return len(body).to_bytes(2, "big") + body


def old_name_packet(name: bytes, flags: int, version: int = 5) -> bytes:
    body = pack(">cHI", b"n", version, flags & 0xFFFFFFFF) + name
    return len(body).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0", "waiting for a name, the other side sent b''"),
        (b"\0\x01x", "waiting for a name, the other side sent b'x'"),
        (b"\xff\xff", f"a packet of 65535 bytes, where none has more than {MAX_PACKET}"),
        (b"\0\x03N12", "a message that is cut"),
        (b"\0\x03n12", "a first message that is cut"),
        (name_packet(b"abc")[:-1][:1] + b"\x11" + name_packet(b"abc")[2:-1], "a name that is cut"),
        (name_packet(b"\xff@h"), "a name that is not UTF-8"),
        (name_packet(b"abc"), "calls itself 'abc', and a node is called name@host"),
        (name_packet(b"@h"), "a node is called name@host"),
        (name_packet(b"a@"), "a node is called name@host"),
        (name_packet(b"a@b@c"), "a node is called name@host"),
        (name_packet(b"a@" + b"h" * 254), "at most 255 characters"),
        (old_name_packet(b"a@h", FLAGS, version=4), "a first message of version 4"),
    ],
)
def test_a_first_message_that_is_none_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(HandshakeError) as refused:
        Acceptor(OWN_B, CHALLENGE_B, ok).receive(data)
    assert message in str(refused.value)
    assert refused.value.farewell == b""


@pytest.mark.parametrize("flag", [bit for bit in (1 << n for n in range(40)) if bit & capabilities.MANDATORY_25])
def test_a_node_without_a_mandatory_flag_is_not_allowed(flag: int) -> None:
    lacking = FLAGS & ~flag & ~capabilities.DIGEST
    with pytest.raises(HandshakeError, match=r"lacks [A-Z_0-9]+: it is older") as refused:
        Acceptor(OWN_B, CHALLENGE_B, ok).receive(name_packet(A.encode(), lacking))
    assert refused.value.farewell == b"\0\x0csnot_allowed"
    initiator = Initiator(OWN_A, B, CHALLENGE_A)
    with pytest.raises(HandshakeError, match="lacks"):
        initiator.receive(STATUS + CHALLENGE.replace(FLAGS.to_bytes(8, "big"), lacking.to_bytes(8, "big")))


def test_the_digest_flag_stands_for_all_of_otp_25() -> None:
    assert Acceptor(OWN_B, CHALLENGE_B, ok).receive(name_packet(A.encode(), 1 << 26)).startswith(STATUS)
    with pytest.raises(HandshakeError):  # the bit that the documentation names
        Acceptor(OWN_B, CHALLENGE_B, ok).receive(name_packet(A.encode(), 1 << 36))


def test_another_cookie_gets_no_answer() -> None:
    acceptor = Acceptor(Own(B, 1, b"other"), CHALLENGE_B, ok)
    acceptor.receive(NAME)
    with pytest.raises(HandshakeError, match="has another cookie") as refused:
        acceptor.receive(REPLY)
    assert refused.value.farewell == b""
    initiator = Initiator(OWN_A, B, CHALLENGE_A + 1)
    with pytest.raises(HandshakeError, match="has another cookie"):
        initiator.receive(STATUS + CHALLENGE + ACK)


def test_the_cookie_is_not_shown() -> None:
    assert "secret" not in repr(OWN_A)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\x04snok", "is connecting to this node"),
        (b"\0\x0csnot_allowed", "does not let this node in: b'not_allowed'"),
        (b"\0\x05swhat", "does not let this node in: b'what'"),
        (b"\0\x0esnamed:\0\x03a@h\0\0\0", "gives this node a name that it does not want"),
        (STATUS + CHALLENGE.replace(b"otp25", b"otp26"), "was called, and otp26@127.0.0.1 answered"),
        (STATUS + b"\0\x02Nx", "a message that is cut"),
        (STATUS + CHALLENGE + b"\0\x02ax", "has another cookie"),
        (CHALLENGE, "waiting for status"),
    ],
)
def test_an_answer_that_is_none_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(HandshakeError) as refused:
        Initiator(OWN_A, B, CHALLENGE_A).receive(data)
    assert message in str(refused.value)


def test_to_yield_is_told_apart_from_a_refusal() -> None:
    with pytest.raises(Yielded):
        Initiator(OWN_A, B, CHALLENGE_A).receive(b"\0\x04snok")


# -- names that are there already, names that are given, the old form ----------------------------------------------


@pytest.mark.parametrize(
    ("own", "peer", "connected", "connecting", "status"),
    [
        ("a@h", "b@h", False, False, "ok"),
        ("a@h", "b@h", False, True, "ok_simultaneous"),
        ("b@h", "a@h", False, True, "nok"),
        ("é@h", "z@h", False, True, "nok"),  # by bytes, not by letters
        ("a@h", "b@h", True, False, "alive"),
        ("a@h", "a@h", False, False, "not_allowed"),
    ],
)
def test_how_it_stands_with_a_node_that_connects(
    own: str, peer: str, connected: bool, connecting: bool, status: str
) -> None:
    assert standing(own, peer, connected=connected, connecting=connecting) == status


def test_a_connection_that_is_there_is_kept_unless_the_other_node_knows_nothing_of_it() -> None:
    acceptor = Acceptor(OWN_B, CHALLENGE_B, lambda name: "alive")
    assert acceptor.receive(NAME) == b"\0\x06salive"
    assert acceptor.receive(b"\0\x05strue") == CHALLENGE
    assert acceptor.receive(REPLY) == ACK
    acceptor = Acceptor(OWN_B, CHALLENGE_B, lambda name: "alive")
    acceptor.receive(NAME)
    with pytest.raises(HandshakeError, match="is connected already"):
        acceptor.receive(b"\0\x06sfalse")


def test_the_initiator_answers_alive_by_what_it_knows() -> None:
    assert Initiator(OWN_A, B, CHALLENGE_A).receive(b"\0\x06salive") == b"\0\x05strue"
    with pytest.raises(HandshakeError, match="is connected already") as refused:
        Initiator(OWN_A, B, CHALLENGE_A, is_connected=lambda: True).receive(b"\0\x06salive")
    assert refused.value.farewell == b"\0\x06sfalse"


@pytest.mark.parametrize("status", ["nok", "not_allowed"])
def test_who_may_not_connect_is_told_so(status: str) -> None:
    with pytest.raises(HandshakeError) as refused:
        Acceptor(OWN_B, CHALLENGE_B, lambda name: status).receive(NAME)
    assert refused.value.farewell == len(f"s{status}").to_bytes(2, "big") + f"s{status}".encode()


def test_a_node_may_ask_for_a_name() -> None:
    initiator = Initiator(Own("127.0.0.1", 0, COOKIE), B, CHALLENGE_A)
    first = initiator.begin()
    assert int.from_bytes(first[3:11], "big") & capabilities.NAME_ME
    acceptor = Acceptor(OWN_B, CHALLENGE_B, ok, name_for=lambda host: (f"X1@{host}", 77))
    reply = initiator.receive(acceptor.receive(first))
    initiator.receive(acceptor.receive(reply))
    assert acceptor.peer is not None
    assert initiator.peer is not None
    assert (acceptor.peer.name, acceptor.peer.creation) == ("X1@127.0.0.1", 77)
    assert (initiator.peer.own_name, initiator.peer.own_creation) == ("X1@127.0.0.1", 77)


def test_who_asks_for_a_name_wants_one() -> None:
    with pytest.raises(HandshakeError, match="does not let this node in"):
        Initiator(Own("127.0.0.1", 0, COOKIE), B, CHALLENGE_A).receive(STATUS)
    with pytest.raises(HandshakeError, match="a node is called name@host"):
        Acceptor(OWN_B, CHALLENGE_B, ok).receive(name_packet(b"127.0.0.1", FLAGS | capabilities.NAME_ME))


def test_the_old_first_message_is_completed_later() -> None:
    acceptor = Acceptor(OWN_B, CHALLENGE_B, ok)
    assert acceptor.receive(old_name_packet(A.encode(), FLAGS)) == STATUS + CHALLENGE
    complement = pack(">HcII", 9, b"c", FLAGS >> 32, 0x6B045F5F)
    assert acceptor.receive(complement + REPLY) == ACK
    assert acceptor.peer == Peer(A, FLAGS, 0x6B045F5F, B, 0x6B04600D)
    acceptor = Acceptor(OWN_B, CHALLENGE_B, ok)
    acceptor.receive(old_name_packet(A.encode(), FLAGS))
    with pytest.raises(HandshakeError, match="waiting for the rest of its flags"):
        acceptor.receive(REPLY)
