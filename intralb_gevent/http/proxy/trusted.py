"""Decide which peers are trusted proxies, and parse IP addresses.

The data that a proxy sends is parsed in `protocol.py` and `forwarded.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

__all__ = ["Strangers", "TrustedNetworks", "read_address", "unmapped"]

REMEMBERED_HOSTS: Final = 1024
"""Maximum number of peers that are cached; the limit keeps untrusted peers from filling the memory."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def read_address(text: str) -> IPv4Address | IPv6Address:
    """Return the IP address in `text`; return the IPv4 address for an IPv4-mapped IPv6 address.

    Raises ValueError for anything else. An address with a zone (`fe80::1%eth0`) is rejected, too, because it is valid
    on one machine only.
    """
    if "%" in text:
        raise ValueError("an address with a zone means something on one machine only")
    return unmapped(ip_address(text))


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address for an IPv4-mapped IPv6 address; return any other address unchanged."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _read_network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - _MAPPED.prefixlen))
    return network


class TrustedNetworks:
    """The set of trusted peers. `host in trusted` tests a peer's address; '' stands for a unix socket.

    The entries are those of the option `trusted_proxies`: addresses, networks, and the word `unix`.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries = tuple(entries)
        self._networks = [_read_network(entry) for entry in self._entries if entry != "unix"]
        self._remembered = lru_cache(maxsize=REMEMBERED_HOSTS)(self._looked_up)

    def __repr__(self) -> str:
        return f"<TrustedNetworks {', '.join(self._entries) or 'none'}>"

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, host: str) -> bool:
        return self._remembered(host)

    def _looked_up(self, host: str) -> bool:
        if not host:
            return "unix" in self._entries
        try:
            address = read_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


_STRANGER: Final = (
    "{} requests from {} had X-Forwarded-For, so this peer seems to be a proxy. The peer is not trusted, so "
    "REMOTE_ADDR is the proxy's address for all its clients. If the proxy is yours, trust it with --trusted-proxies {}"
)


class Strangers:
    """Peers that seem to be proxies while no proxy is trusted; `report` receives a text about the first such peer."""

    MANY: Final = 100
    """Number of requests with X-Forwarded-For after which a peer is assumed to be a proxy."""
    MOST_HOSTS: Final = 64
    """Maximum number of peers whose requests are counted; the limit bounds the memory."""

    __slots__ = ("_counts", "_report", "watching")

    def __init__(self, report: Callable[[str], object]) -> None:
        self._report = report
        self._counts: dict[str, int] = {}
        self.watching = True
        """True until a peer has been reported as a likely proxy."""

    def __repr__(self) -> str:
        return f"<Strangers {self._counts}>"

    def see(self, host: str) -> None:
        """Count a request with X-Forwarded-For from a peer; `host` is its address, or '' for a unix socket."""
        if host not in self._counts and len(self._counts) >= self.MOST_HOSTS:
            return
        count = self._counts[host] = self._counts.get(host, 0) + 1
        if count >= self.MANY:
            self.watching = False
            self._counts.clear()
            self._report(_STRANGER.format(count, host or "a unix socket", host or "unix"))
