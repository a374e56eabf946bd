"""The settings of the program `serve`: its application, addresses, certificates, user and files.

These settings concern the whole program and not one balancer, so they are not part of `Options`. The supervisor reads
these settings without importing gevent or the application.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from .fields import Declaration, check_fields, declarations_in, option
from .kinds import BadEntry, Kind, choice, metrics_target, require, switch

__all__ = ["DEFAULT_BIND", "ServingOptions", "serving_declarations"]

DEFAULT_BIND = "127.0.0.1:8000"

_APPLICATION, _ADDRESSES, _TLS, _PROGRAM = "Application", "Addresses", "TLS", "Program"
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^:/\[\]@]*):(?P<port>[0-9]{1,5})").fullmatch
_OCTAL = re.compile(r"(?:0o?)?[0-7]{1,3}").fullmatch
_LOOPBACK, _EVERYWHERE = "127.0.0.1", "0.0.0.0"
_MOST_PORT = 65535


def _address(value: Any) -> str:
    """Return an address in its full form; a bare port is on 127.0.0.1, and `:PORT` is on all IPv4 addresses."""
    require(isinstance(value, (str, int)) and not isinstance(value, bool))
    text = f"{_LOOPBACK}:{value}" if str(value).isdecimal() else str(value)
    scheme, _, rest = text.partition(":")
    if scheme == "unix":
        require(rest != "" and "\0" not in rest)
        return text
    if scheme == "fd":
        require(rest.isdecimal() and len(rest) < 10)
        return text
    match = _HOST_AND_PORT(text)
    require(match is not None and int(match["port"]) <= _MOST_PORT)
    return f"{_EVERYWHERE}{text}" if text.startswith(":") else text


_FORMS = (
    "HOST:PORT, [IPV6]:PORT, :PORT (all IPv4 addresses), PORT (127.0.0.1 only), "
    "unix:PATH or fd:NUMBER, with a port of at most 65535"
)


def _one_address() -> Kind:
    return Kind(_FORMS, "ADDRESS", _address, str, textual=True)


def _addresses() -> Kind:
    def entry_of(value: Any) -> str:
        try:
            return _address(value)
        except ValueError:
            raise BadEntry(f"{value!r} is not allowed; it must be {_FORMS}") from None

    def convert(value: Any) -> tuple[str, ...]:
        entries = value if isinstance(value, (list, tuple)) else [value]
        require(len(entries) > 0)
        return tuple(map(entry_of, entries))

    def parse(text: str) -> list[str]:
        return [entry.strip() for entry in text.split(",")]

    allowed = f"{_FORMS}; several as a list (in text: with commas)"
    return Kind(allowed, "ADDRESS", convert, parse, textual=True, joined_by=",")


def _text(allowed: str, placeholder: str) -> Kind:
    def convert(value: Any) -> str:
        require(isinstance(value, str) and value != "" and "\0" not in value)
        return str(value)

    return Kind(allowed, placeholder, convert, str, textual=True)


def _file() -> Kind:
    return _text("the path of a file", "FILE")


def _octal() -> Kind:
    def convert(value: Any) -> int:
        require(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777)
        return int(value)

    def parse(text: str) -> int:
        require(_OCTAL(text) is not None)
        return int(text.removeprefix("0o"), 8)

    def write(value: int | None) -> str | None:
        return None if value is None else f"{value:03o}"

    return Kind("an octal number such as 660 (in a file: a string)", "MODE", convert, parse, textual=True, write=write)


def _account(of: str) -> Kind:
    def convert(value: Any) -> str:
        require(isinstance(value, (str, int)) and not isinstance(value, bool) and str(value) != "")
        return str(value)

    return Kind(f"the name or number of a {of}", of.upper(), convert, str, textual=True)


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """The settings of the program `serve`; they are immutable, keyword-only, and checked at construction."""

    application: str | None = option(
        _APPLICATION,
        None,
        _text("MODULE:NAME, MODULE:FACTORY(), or a module", "MODULE:APP"),
        "WSGI application to import; MODULE:FACTORY() calls FACTORY to create the application. Default: the "
        "application that FLASK_APP names, or the application in wsgi.py, app.py, or the only */wsgi.py beside "
        "manage.py.",
    )
    bind: Sequence[str] = option(
        _ADDRESSES,
        (DEFAULT_BIND,),
        _addresses(),
        f"Addresses on which clients connect. Default: {DEFAULT_BIND}, or 0.0.0.0:$PORT if the variable PORT is set.",
    )
    admin_bind: str | None = option(
        _ADDRESSES,
        None,
        _one_address(),
        "Address for probes and operators, with pages such as /live, /ready and /snapshot, but without the "
        "application. Default: off.",
    )
    admin_actions: bool = option(
        _ADDRESSES,
        False,
        switch(),
        "Let operators end running requests on the status page of admin_bind. Operators need the token that is printed "
        "at the start; the variable INTRALB_ADMIN_TOKEN can set this token.",
    )
    agent_bind: str | None = option(
        _ADDRESSES,
        None,
        _one_address(),
        "Address that answers HAProxy's agent checks with the weight of this server. Default: off.",
    )
    push_metrics: str | None = option(
        _ADDRESSES,
        None,
        metrics_target(),
        "Receiver to which each process sends its metrics every 10 seconds. With otlp, the receiver is the "
        "OpenTelemetry collector that the OTEL_EXPORTER_OTLP_ variables name, and intralb-gevent[otel] must be "
        "installed. Default: off.",
    )
    socket_mode: int = option(
        _ADDRESSES,
        0o777,
        _octal(),
        "Permissions of unix sockets. With the default, a proxy that runs as another user can connect. Default: 777.",
    )
    certfile: str | None = option(
        _TLS,
        None,
        _file(),
        "PEM file with the server's certificate and its chain of intermediate certificates; clients must then use TLS. "
        "On SIGHUP, the server reads the TLS files again. Default: no TLS.",
    )
    keyfile: str | None = option(
        _TLS, None, _file(), "PEM file with the certificate's private key. Default: the key is in certfile."
    )
    ca_certs: str | None = option(
        _TLS,
        None,
        _file(),
        "PEM file with the certificates of authorities. Each client must then have a certificate from one of these "
        "authorities, unless cert_reqs is optional. Default: none.",
    )
    cert_reqs: str = option(
        _TLS,
        "required",
        choice("required", "optional"),
        "Whether ca_certs requires a certificate from each client. If optional, SSL_CLIENT_VERIFY in the environ shows "
        "the application whether the client has sent a certificate.",
    )
    chdir: str | None = option(
        _PROGRAM,
        None,
        _text("the path of a directory", "DIRECTORY"),
        "Directory from which the application is imported, and against which relative paths in the settings are "
        "resolved. Default: the current directory.",
    )
    env_file: str | None = option(
        _PROGRAM,
        None,
        _file(),
        "File with environment variables, for settings and for the application; variables that are already set take "
        "precedence. This setting needs python-dotenv. Default: none.",
    )
    user: str | None = option(
        _PROGRAM,
        None,
        _account("user"),
        "User to which the process changes after it has bound the addresses and read the certificates, and before it "
        "imports the application. Default: unchanged.",
    )
    group: str | None = option(
        _PROGRAM,
        None,
        _account("group"),
        "Group to which the process changes. Default: the groups of user, or unchanged.",
    )
    umask: int | None = option(
        _PROGRAM, None, _octal(), "Permissions that are removed from new files. Default: unchanged."
    )
    pid_file: str | None = option(
        _PROGRAM, None, _file(), "File that contains the process id while the server runs. Default: none."
    )
    ready_file: str | None = option(
        _PROGRAM,
        None,
        _file(),
        "File to which the server writes its process id and the bound addresses, as JSON, once it listens. Default: "
        "none.",
    )

    def __post_init__(self) -> None:
        """Check each field, and that no TLS setting is given without the settings on which it depends."""
        check_fields(self)
        for name in ("keyfile", "ca_certs"):
            if getattr(self, name) is not None and self.certfile is None:
                raise OptionError(f"{name}: not allowed alone; certfile must name the server's certificate")
        if self.cert_reqs == "optional" and self.ca_certs is None:
            raise OptionError("cert_reqs: not allowed alone; ca_certs must name the authorities of the clients")

    @property
    def tls_arguments(self) -> dict[str, Any]:
        """Return the certificate settings as keyword arguments of `WSGIServer`; empty without TLS."""
        given = {"certfile": self.certfile, "keyfile": self.keyfile, "ca_certs": self.ca_certs}
        return {name: path for name, path in given.items() if path is not None}


def serving_declarations() -> tuple[Declaration, ...]:
    """Return the declarations of the settings of the program, in their order in the class."""
    return declarations_in(ServingOptions)
