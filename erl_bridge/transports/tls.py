"""TLS for what listens and what dials: contexts of the standard library with one set of rules.

Rule of this file: TLS 1.2 or newer; who has an authority to check by, checks. Files that cannot be used are a
:class:`BadTls` that names them, and never shows what is in them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext


class BadTls(Exception):
    """A certificate, key or authority that cannot be used; the message names the file and says why."""


def server_context(cert: str, key: str = "", ca: str = "") -> SSLContext:
    """The context of a server with the certificate chain in ``cert`` and its key in ``key`` (or in ``cert`` too).

    With ``ca``, a file of authorities' certificates, only clients with a certificate of theirs get in. All files are
    PEM. Raises :class:`BadTls`.
    """
    import ssl  # 20 ms to import, and only needed by those who ask for TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own(context, cert, key)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, ca)
    return context


def client_context(ca: str, cert: str = "", key: str = "", check_hostname: bool = True) -> SSLContext:
    """The context of a client that trusts the authorities in ``ca``, and shows ``cert`` where it has one.

    With ``check_hostname`` the server's certificate must be for the name that ``wrap_socket`` is given. Raises
    :class:`BadTls`.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    _load_authorities(context, ca)
    if cert:
        _load_own(context, cert, key)
    return context


def _load_own(context: SSLContext, cert: str, key: str) -> None:
    try:
        context.load_cert_chain(cert, key or None, _no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = f"the certificate {cert} with the key {key or cert}"
        raise BadTls(f"{files} cannot be used: {_reason(error)}") from None


def _load_authorities(context: SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise BadTls(f"the authorities' certificates {ca} cannot be used: {_reason(error)}") from None


def _no_password() -> str:
    raise ValueError("the key has a password, and nobody is here to type it")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
