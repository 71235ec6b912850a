"""TLS contexts: what they load, what they refuse, and who gets in."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from certificates import Certificates

from erl_bridge.transports.tls import BadTls, client_context, server_context


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes, list[Exception]]:
    """What a client reads from a server that sends one word, and what went wrong on the server's side."""
    here, there = socket.socketpair()
    errors: list[Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(here, server_side=True) as wrapped:
                wrapped.sendall(b"in")
                wrapped.unwrap()
        except OSError as error:
            errors.append(error)
            here.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(there, server_hostname=name) as wrapped:
            data = wrapped.recv(10)
            wrapped.unwrap()
            return data, errors
    except OSError as error:
        there.close()
        return type(error).__name__.encode(), errors
    finally:
        thread.join(10)


def test_a_client_with_a_certificate_of_the_authority_gets_in(certificates: Certificates) -> None:
    server = server_context(certificates.server, certificates.server_key, certificates.ca)
    client = client_context(certificates.ca, certificates.client, certificates.client_key)
    assert shake(server, client, "localhost") == (b"in", [])
    assert server.minimum_version == client.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_client_without_one_is_refused_only_where_it_is_asked_for(certificates: Certificates) -> None:
    client = client_context(certificates.ca)
    asking = server_context(certificates.server, certificates.server_key, certificates.ca)
    _, errors = shake(asking, client, "localhost")
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(errors[0])
    open_to_all = server_context(certificates.server, certificates.server_key)
    assert shake(open_to_all, client, "localhost") == (b"in", [])


def test_a_client_leaves_a_server_of_another_name_or_authority(certificates: Certificates, tmp_path: Path) -> None:
    server = server_context(certificates.server, certificates.server_key)
    client = client_context(certificates.ca)
    assert shake(server, client, "elsewhere")[0] == b"SSLCertVerificationError"
    assert shake(server, client_context(certificates.ca, check_hostname=False), "elsewhere") == (b"in", [])
    stranger = Certificates(tmp_path)
    assert shake(server, client_context(stranger.ca), "localhost")[0] == b"SSLCertVerificationError"


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(BadTls, match=r"the certificate .*missing.pem with the key .*: No such file or directory"):
        server_context(missing)
    with pytest.raises(BadTls, match=r"the authorities' certificates .*missing.pem cannot be used: No such file"):
        client_context(missing)
    with pytest.raises(BadTls, match=r"with the key .*client.key cannot be used: KEY_VALUES_MISMATCH"):
        server_context(certificates.server, certificates.client_key)
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", certificates.server_key, "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(BadTls, match="the key has a password, and nobody is here to type it"):
        server_context(certificates.server, str(locked))
