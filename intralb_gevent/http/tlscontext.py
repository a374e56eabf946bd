"""Create the SSL context from a server's TLS arguments; reject arguments with which no client could be served."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import OptionError

__all__ = ["tls_context"]

_FILES = ("certfile", "keyfile", "ca_certs")
_MAKING = (*_FILES, "cert_reqs", "ciphers", "ssl_version")
_WITHOUT_EFFECT = ("server_side", "do_handshake_on_connect", "suppress_ragged_eofs")
"""Arguments of gevent's servers that concern blocking sockets; they are accepted but have no effect."""


class _CalledBack(ssl.SSLObject):
    """The TLS object passed to the callbacks of an SSL context; gevent's wrapper of a callback calls `_sslsock`."""

    def _sslsock(self) -> _CalledBack:
        return self


def tls_context(ssl_args: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the context that the TLS arguments of a gevent server describe.

    A given `ssl_context` keeps its settings. `certfile` and `keyfile` are PEM files; by default, the key is in
    `certfile`. `cert_reqs` determines whether clients need a certificate, and `ca_certs` names the authorities of
    clients' certificates. Further arguments are `ciphers` and `ssl_version`. Raises `OptionError` for unknown
    arguments, and for values with which no client could be served.
    """
    given = {name: value for name, value in ssl_args.items() if value is not None}
    _require_allowed(ssl_args, given)
    context = _usable(given["ssl_context"]) if "ssl_context" in given else _made(given)
    if context.sslobject_class is ssl.SSLObject:
        context.sslobject_class = _CalledBack
    return context


def _require_allowed(named: Iterable[str], given: Mapping[str, Any]) -> None:
    known = ("ssl_context", *_MAKING, *_WITHOUT_EFFECT)
    for name in named:
        if name not in known:
            raise OptionError(f"{name}: there is no such argument; those for TLS are {', '.join(known)}")
        if name in _MAKING and name in given and "ssl_context" in given:
            raise OptionError(f"{name}: is not allowed together with ssl_context; set it on that context instead")
    if given.get("server_side", True) is not True:
        raise OptionError(
            f"server_side: {given['server_side']!r} is not allowed; leave it out, because a server needs True"
        )


def _usable(context: Any) -> ssl.SSLContext:
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    except (AttributeError, TypeError, ValueError, ssl.SSLError):
        raise OptionError(
            f"ssl_context: {context!r} is not allowed; it must be an ssl.SSLContext for servers, such as "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) after load_cert_chain(certfile, keyfile)"
        ) from None
    return context  # type: ignore[no-any-return]  # wrap_bio() has just succeeded


def _made(given: Mapping[str, Any]) -> ssl.SSLContext:
    if "certfile" not in given:
        raise OptionError("certfile: is missing; give the PEM file of the server's certificate, or ssl_context")
    for name in _FILES:
        _require_readable(name, given.get(name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _set_version(context, given.get("ssl_version", ssl.PROTOCOL_TLS_SERVER))
    _load_certificate(context, given["certfile"], given.get("keyfile"))
    _set_clients(context, given)
    if "ciphers" in given:
        _set_ciphers(context, given["ciphers"])
    return context


def _require_readable(name: str, path: Any) -> None:
    if path is None:
        return
    try:
        with open(os.fspath(path), "rb"):
            return
    except (OSError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise OptionError(
            f"{name}: {path!r} cannot be read ({why}); name a PEM file that the server's user may read"
        ) from None


def _set_version(context: ssl.SSLContext, version: Any) -> None:
    if version == ssl.PROTOCOL_TLSv1_2:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif version not in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS):
        raise OptionError(
            f"ssl_version: {version!r} is not allowed; it must be PROTOCOL_TLS_SERVER, PROTOCOL_TLS or "
            "PROTOCOL_TLSv1_2; if older clients must be served, give an ssl_context that allows their version"
        )


def _load_certificate(context: ssl.SSLContext, certfile: Any, keyfile: Any) -> None:
    def refuse_encrypted_key() -> str:
        raise OptionError(
            f"keyfile: the key in {keyfile or certfile!r} is encrypted; "
            "store it unencrypted, or give an ssl_context that has loaded it with its password"
        )

    try:
        context.load_cert_chain(certfile, keyfile, password=refuse_encrypted_key)
    except ssl.SSLError as error:
        raise OptionError(
            f"certfile, keyfile: {certfile!r} and {keyfile or certfile!r} are no certificate in PEM form and its key "
            f"({error.reason or 'no PEM'}); the certificate comes first, then those that lead to its authority"
        ) from None


def _set_clients(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    wanted = given.get("cert_reqs", ssl.CERT_NONE)
    try:
        context.verify_mode = wanted
    except (TypeError, ValueError):
        raise OptionError(
            f"cert_reqs: {wanted!r} is not allowed; it must be ssl.CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED"
        ) from None
    if wanted != ssl.CERT_NONE and "ca_certs" not in given:
        raise OptionError("ca_certs: is missing; with cert_reqs, give the PEM file of the authorities to trust")
    if "ca_certs" in given:
        try:
            context.load_verify_locations(given["ca_certs"])
        except ssl.SSLError as error:
            raise OptionError(
                f"ca_certs: {given['ca_certs']!r} contains no certificates in PEM form ({error.reason or 'no PEM'})"
            ) from None


def _set_ciphers(context: ssl.SSLContext, ciphers: Any) -> None:
    try:
        context.set_ciphers(ciphers)
    except (TypeError, ssl.SSLError):
        raise OptionError(
            f"ciphers: {ciphers!r} is not allowed; it must be a list that `openssl ciphers` understands"
        ) from None
