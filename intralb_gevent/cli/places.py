"""The addresses, certificates and ready file of a serving process.

The addresses are bound and the certificates are read before the process changes its user.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ..config.serving import ServingOptions
from ..http.tlscontext import tls_context
from .admintoken import take_token
from .binding import Address, InheritedAddress, OpenAddress, bound_socket, parse
from .identity import Identity
from .membership import Membership
from .readyfile import explained

__all__ = ["Places", "open_places"]


@dataclass(frozen=True)
class Places:
    """The addresses for clients, operators and HAProxy, and the ready file, from which scripts read the addresses."""

    addresses: Sequence[Address]
    admin: Address | None = None
    agent: Address | None = None
    ready_file: str | None = None
    pid_file: str | None = None
    identity: Identity = Identity()  # noqa: RUF009  # frozen
    admin_token: str | None = None
    """Token with which operators can end requests; None if `admin_actions` is off."""
    metrics: str | None = None
    """Receiver of the metrics, as in the setting `push_metrics`."""
    tls: ssl.SSLContext | None = None
    tls_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments from which `tls` was created; on SIGHUP, a new context is created from the same arguments."""

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return all(address.is_local for address in self.addresses)

    def certificates(self) -> ssl.SSLContext:
        """Read the certificates again into a new context; raises `OptionError` if the certificates cannot be used."""
        return tls_context(self.tls_arguments)


def open_places(options: ServingOptions, membership: Membership, identity: Identity, stack: ExitStack) -> Places:
    """Return the addresses; inherited listeners replace the addresses in the settings.

    If the process changes its user later, bind all addresses now, because the new user may not be allowed to bind them.
    """
    arguments = _with_verification(options)
    scheme = "https" if arguments else "http"
    addresses: list[Address] = [each.with_scheme(scheme) for each in membership.addresses]
    if not addresses:
        addresses = [_parsed(text, "bind", options, identity, scheme) for text in options.bind]
    admin: Address | None = membership.admin or _one(options.admin_bind, "admin_bind", options, identity)
    agent: Address | None = membership.agent or _one(options.agent_bind, "agent_bind", options, identity)
    if identity.changes:
        addresses = [_opened(each, "--bind", stack) for each in addresses]
        admin = None if admin is None else _opened(admin, "--admin-bind", stack)
        agent = None if agent is None else _opened(agent, "--agent-bind", stack)
    tls = tls_context(arguments) if arguments else None
    return Places(
        addresses,
        admin,
        agent,
        None if membership.supervised else options.ready_file,
        None if membership.supervised else options.pid_file,
        identity,
        take_token(os.environ) if options.admin_actions else None,
        options.push_metrics,
        tls,
        arguments,
    )


def _one(text: str | None, setting: str, options: ServingOptions, identity: Identity) -> Address | None:
    return None if text is None else _parsed(text, setting, options, identity)


def _with_verification(options: ServingOptions) -> dict[str, Any]:
    arguments = options.tls_arguments
    if options.ca_certs is not None:
        arguments["cert_reqs"] = ssl.CERT_OPTIONAL if options.cert_reqs == "optional" else ssl.CERT_REQUIRED
    return arguments


def _parsed(text: str, setting: str, options: ServingOptions, identity: Identity, scheme: str = "http") -> Address:
    return parse(text, setting, scheme, options.socket_mode, identity.owner)


def _opened(address: Address, flag: str, stack: ExitStack) -> Address:
    if isinstance(address, (InheritedAddress, OpenAddress)):
        return address
    with explained(f"cannot listen on {address}", f"choose another {flag}"):
        return OpenAddress(stack.enter_context(bound_socket(address)), address)
