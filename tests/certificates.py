"""An authority and certificates of it for a server and a client, made with openssl for a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMES = "DNS:localhost,DNS:127.0.0.1,IP:127.0.0.1"


class Certificates:
    """Paths of PEM files in ``folder``: ``ca``, ``server``, ``server_key``, ``client`` and ``client_key``.

    The server's is for localhost and 127.0.0.1, as an address and, as the BEAM wants it, as a name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = self._make("ca", "basicConstraints=critical,CA:TRUE")
        self.server, self.server_key = self._signed("server")
        self.client, self.client_key = self._signed("client")

    def _signed(self, name: str) -> tuple[str, str]:
        signer = ("-CA", self.ca, "-CAkey", str(self.folder / "ca.key"))
        return self._make(name, f"subjectAltName={NAMES}", *signer), str(self.folder / f"{name}.key")

    def _make(self, name: str, extension: str, *signer: str) -> str:
        path = str(self.folder / f"{name}.pem")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        files = ("-keyout", str(self.folder / f"{name}.key"), "-out", path)
        what = ("-subj", f"/CN={name}", "-addext", extension, "-days", "2")
        command = ["openssl", "req", "-x509", *key, *files, *what, *signer]
        subprocess.run(command, check=True, capture_output=True)
        return path
