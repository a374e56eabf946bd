"""Data about clients is read correctly from trusted proxies; other peers cannot spoof such data."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intralb_gevent.http.proxy.hints import apply_proxy_hints
from intralb_gevent.http.proxy.protocol import MAX_BYTES, ProxyHeader
from intralb_gevent.http.proxy.trusted import TrustedNetworks

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
TRUSTED = TrustedNetworks(["10.0.0.0/8", "2001:db8::/32", "unix"])
PROXY = "10.0.0.1"

ADDRESSES = st.ip_addresses()
PORTS = st.integers(0, 65535)


# Trusted peers.


@pytest.mark.parametrize(
    ("entries", "host", "trusted"),
    [
        ((), "127.0.0.1", False),
        ((), "", False),
        (("127.0.0.1",), "127.0.0.1", True),
        (("127.0.0.1",), "127.0.0.2", False),
        (("10.0.0.0/8",), "10.200.3.4", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("10.0.0.0/8",), "::ffff:a01:203", True),
        (("::ffff:10.0.0.0/104",), "10.1.2.3", True),
        (("::ffff:10.0.0.0/104",), "11.1.2.3", False),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("::1",), "0:0:0:0:0:0:0:1", True),
        (("2001:db8::/32",), "2001:db8:ffff::1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (("unix",), "", True),
        (("unix",), "127.0.0.1", False),
        (("127.0.0.1",), "", False),
        (("127.0.0.1", "unix"), "", True),
        (("10.0.0.0/8",), "not an address", False),
        (("fe80::/10",), "fe80::1%eth0", False),
    ],
)
def test_a_peer_is_trusted_by_its_address(entries: tuple[str, ...], host: str, trusted: bool) -> None:
    networks = TrustedNetworks(entries)
    assert (host in networks) is trusted
    assert (host in networks) is trusted, "the second answer comes from memory"
    assert bool(networks) is bool(entries)


@given(address=st.ip_addresses(v=4), length=st.integers(0, 32), host=st.ip_addresses(v=4), offset=st.integers(0))
def test_a_network_holds_its_addresses_and_no_others(address: Any, length: int, host: Any, offset: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    trusted = TrustedNetworks([str(network)])
    assert str(network[offset % network.num_addresses]) in trusted
    assert (str(host) in trusted) is (host in network)
    assert (f"::ffff:{host}" in trusted) is (host in network)


# The PROXY protocol.


def v2(command: int = 0x21, family: int = 0x11, addresses: bytes = b"", length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses) if length is None else length) + addresses


def v2_of(source: Any, port: int, *, transport: int = 1, more: bytes = b"") -> bytes:
    family = 1 if source.version == 4 else 2
    destination = bytes(len(source.packed))
    addresses = source.packed + destination + struct.pack("!HH", port, 443) + more
    return v2(family=family * 16 + transport, addresses=addresses)


def v1_of(source: Any, port: int) -> bytes:
    destination = "10.0.0.1" if source.version == 4 else "2001:db8::1"
    return f"PROXY TCP{source.version} {source} {destination} {port} 443\r\n".encode()


V4, V6 = ipaddress.ip_address("203.0.113.9"), ipaddress.ip_address("2001:db8:1::9")
LONGEST_V1 = b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n"

HEADERS: dict[str, tuple[bytes, tuple[str, str] | None]] = {
    "v1 IPv4": (v1_of(V4, 56324), ("203.0.113.9", "56324")),
    "v1 IPv6": (v1_of(V6, 1), ("2001:db8:1::9", "1")),
    "v1 IPv6 in capitals": (b"PROXY TCP6 2001:DB8::A ::1 65535 0\r\n", ("2001:db8::a", "65535")),
    "v1 IPv6 that is IPv4": (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 5 6\r\n", ("203.0.113.9", "5")),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown, and more": (b"PROXY UNKNOWN 1 2 three\r\n", None),
    "v1 as long as can be": (LONGEST_V1, None),
    "v2 IPv4": (v2_of(V4, 56324), ("203.0.113.9", "56324")),
    "v2 IPv6": (v2_of(V6, 0), ("2001:db8:1::9", "0")),
    "v2 IPv6 that is IPv4": (v2_of(ipaddress.ip_address("::ffff:203.0.113.9"), 5), ("203.0.113.9", "5")),
    "v2 UDP over IPv4": (v2_of(V4, 5, transport=2), ("203.0.113.9", "5")),
    "v2 UDP over IPv6": (v2_of(V6, 5, transport=2), ("2001:db8:1::9", "5")),
    "v2 IPv4 with more behind": (v2_of(V4, 5, more=b"\x04\0\x03abc" * 50), ("203.0.113.9", "5")),
    "v2 as long as can be": (v2_of(V4, 5, more=bytes(MAX_BYTES - 28)), ("203.0.113.9", "5")),
    "v2 unix": (v2(family=0x31, addresses=b"/run/client".ljust(216, b"\0")), None),
    "v2 unix datagrams": (v2(family=0x32, addresses=bytes(216)), None),
    "v2 unspecified": (v2(family=0x00), None),
    "v2 unspecified, and more": (v2(family=0x00, addresses=b"whatever"), None),
    "v2 unspecified transport": (v2(family=0x10, addresses=bytes(12)), None),
    "v2 local": (v2(command=0x20, family=0x00), None),
    "v2 local with a client": (v2(command=0x20, family=0x11, addresses=V4.packed * 3), None),
    "v2 local of no family": (v2(command=0x20, family=0xFF, addresses=b"x"), None),
}

MALFORMED: dict[str, bytes] = {
    "a request": REQUEST,
    "another word": b"PROXIES TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "small letters": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "two spaces": b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "a space at the end": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    "nothing": b"PROXY \r\n",
    "another protocol": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "almost unknown": b"PROXY UNKNOWNS\r\n",
    "no port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "a line feed alone": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\nGET / HTTP/1.1\r\n",
    "a carriage return alone": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rGET / HTTP/1.1\r\n",
    "IPv6 as TCP4": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "IPv4 as TCP6": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "two families": b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
    "a name": b"PROXY TCP4 localhost 1.2.3.4 1 2\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "octal": b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
    "a number too large": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
    "a port too large": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "a port with a zero before it": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "a negative port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n",
    "digits that are not ASCII": "PROXY TCP4 1.2.3.4 1.2.3.4 ² 2\r\n".encode("latin-1"),
    "v1 too long": b"PROXY UNKNOWN " + b"x" * (108 - 16) + b"\r\n",
    "v1 without an end": b"PROXY TCP4 " + b"1" * 100,
    "another version": v2(command=0x11, addresses=bytes(12)),
    "another command": v2(command=0x22, addresses=bytes(12)),
    "another family": v2(family=0x41, addresses=bytes(216)),
    "another transport": v2(family=0x13, addresses=bytes(12)),
    "too short for IPv4": v2(family=0x11, addresses=bytes(11)),
    "too short for IPv6": v2(family=0x21, addresses=bytes(35)),
    "too short for unix": v2(family=0x31, addresses=bytes(215)),
    "v2 too long": v2_of(V4, 5, more=bytes(MAX_BYTES - 27)),
    "v2 that promises 64 KB": v2(length=65535),
}


def fed(*pieces: bytes) -> tuple[tuple[str, str] | None, bytes] | str | None:
    """Feed the pieces; return the source address and the rest, or the error, or None if the parser needs more data."""
    header = ProxyHeader()
    for number, piece in enumerate(pieces):
        try:
            complete = header.feed(piece)
        except ValueError as error:
            return str(error)
        if complete:
            return header.source, header.rest + b"".join(pieces[number + 1 :])
    return None


@pytest.mark.parametrize(("header", "source"), HEADERS.values(), ids=HEADERS)
def test_a_header_names_the_client_and_leaves_the_rest(header: bytes, source: tuple[str, str] | None) -> None:
    assert fed(header) == (source, b"")
    assert fed(header + REQUEST) == (source, REQUEST)
    assert fed(header[:-1]) is None


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_in_words_of_ours(data: bytes) -> None:
    with pytest.raises(ValueError, match="PROXY"):
        ProxyHeader().feed(data)
    assert isinstance(fed(*(bytes([byte]) for byte in data)), str)


@pytest.mark.parametrize(
    ("data", "certain_at"),
    [
        (REQUEST, 1),
        (b"PROXIES", 5),
        (b"\r\nGET", 3),
        (v2(command=0x31), 16),
        (v2(length=9000), 16),
        (b"PROXY " * 20, 107),
    ],
)
def test_it_is_refused_as_soon_as_that_is_certain(data: bytes, certain_at: int) -> None:
    header = ProxyHeader()
    for byte in data[: certain_at - 1]:
        assert header.feed(bytes([byte])) is False
    with pytest.raises(ValueError, match="PROXY"):
        header.feed(data[certain_at - 1 : certain_at])


@given(source=ADDRESSES, port=PORTS, rest=st.binary(max_size=50))
def test_both_versions_tell_every_address(source: Any, port: int, rest: bytes) -> None:
    told = (str(getattr(source, "ipv4_mapped", None) or source), str(port))
    assert fed(v1_of(source, port) + rest) == (told, rest)
    assert fed(v2_of(source, port) + rest) == (told, rest)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


STREAMS = (
    st.sampled_from([*(header for header, _ in HEADERS.values()), *MALFORMED.values()]).map(lambda data: data + REQUEST)
    | st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda data: b"PROXY " + data)
    | st.text("TCP46UNKOW 0123456789abcdef:.\r\n", max_size=150).map(lambda text: b"PROXY " + text.encode())
    | st.binary(max_size=600).map(lambda data: SIGNATURE + data)
    | st.tuples(st.sampled_from([0x20, 0x21]), st.integers(0, 255), st.binary(max_size=300)).map(
        lambda parts: v2(parts[0], parts[1], parts[2]) + REQUEST
    )
)


@given(data=STREAMS, cuts=st.lists(st.integers(0, 5000), max_size=8))
def test_any_split_of_the_bytes_gives_the_same(data: bytes, cuts: list[int]) -> None:
    assert fed(*pieces_of(data, cuts)) == fed(data)


@given(data=STREAMS)
@example(data=bytes(100_000))
def test_any_bytes_are_a_header_within_the_limit_or_a_value_error(data: bytes) -> None:
    result = fed(data)
    if isinstance(result, tuple):
        source, rest = result
        assert data.endswith(rest)
        assert len(data) - len(rest) <= (107 if data.startswith(b"PROXY") else MAX_BYTES)
        assert source is None or (ipaddress.ip_address(source[0]) and 0 <= int(source[1]) <= 65535)
    elif result is None:
        assert len(data) < MAX_BYTES


# X-Forwarded-* and Forwarded.


def environ_of(**fields: str) -> dict[str, Any]:
    return {
        "REMOTE_ADDR": PROXY,
        "REMOTE_PORT": "40000",
        "HTTP_HOST": "intern.example",
        "SERVER_NAME": "app-7",
        "SERVER_PORT": "8000",
        "SCRIPT_NAME": "",
        "wsgi.url_scheme": "http",
        **fields,
    }


def told(peer: str = PROXY, trusted: TrustedNetworks = TRUSTED, **fields: str) -> dict[str, Any]:
    """Return the changes to the environ for a request with these fields from `peer`; None means a removed key."""
    before = environ_of(**fields)
    environ = dict(before)
    apply_proxy_hints(environ, peer, trusted, 0.0)
    return {name: environ.get(name) for name in {*before, *environ} if environ.get(name) != before.get(name)}


def client(address: str, port: str = "") -> dict[str, str]:
    return {"REMOTE_ADDR": address, "REMOTE_PORT": port}


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        ("203.0.113.9", client("203.0.113.9")),
        ("203.0.113.9:4711", client("203.0.113.9", "4711")),
        ("203.0.113.9:99999", client("203.0.113.9")),
        ("2001:DB9::9", client("2001:db9::9")),
        ("[2001:db9::9]", client("2001:db9::9")),
        ("[2001:db9::9]:4711", client("2001:db9::9", "4711")),
        ("::ffff:203.0.113.9", client("203.0.113.9")),
        ("6.6.6.6, 203.0.113.9", client("203.0.113.9")),
        ("6.6.6.6,203.0.113.9, 10.0.0.2", client("203.0.113.9")),
        ("6.6.6.6, 203.0.113.9, 2001:db8::7, ::ffff:10.0.0.3", client("203.0.113.9")),
        ("not an address, 203.0.113.9", client("203.0.113.9")),
        ('", 203.0.113.9', client("203.0.113.9")),
        ("203.0.113.9, ", client("203.0.113.9")),
        (", 203.0.113.9,, \t,10.0.0.2", client("203.0.113.9")),
        ("10.0.0.9, 10.0.0.2", client("10.0.0.9")),
        ("", {}),
        (" , ,", {}),
        ("unknown", {}),
        ("203.0.113.9, unknown", {}),
        ("203.0.113.9, unknown, 10.0.0.2", {}),
        ("203.0.113.9 203.0.113.10", {}),
        ("fe80::1%eth0", {}),
        ("203.0.113.09", {}),
        ("203.0.113.9/32", {}),
        ("[203.0.113.9]", {}),
        ("<script>", {}),
        ("1" * 5000, {}),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_trusted_proxy(value: str, changes: dict[str, str]) -> None:
    assert told(HTTP_X_FORWARDED_FOR=value) == changes


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        ("for=203.0.113.9", client("203.0.113.9")),
        ('For="203.0.113.9:4711"', client("203.0.113.9", "4711")),
        ('for="203.0.113.9:_port"', client("203.0.113.9")),
        ('for="[2001:db9::9]:4711"', client("2001:db9::9", "4711")),
        ("for=6.6.6.6, for=203.0.113.9;by=_me, for=10.0.0.2", client("203.0.113.9")),
        ('for=6.6.6.6, for=203.0.113.9, for="[2001:db8::7]:80"', client("203.0.113.9")),
        ('for=", for=203.0.113.9', client("203.0.113.9")),
        ('host="a, for=6.6.6.6, for=203.0.113.9;host="b,c"', client("203.0.113.9")),
        ('for=203.0.113.9;secret="a,b;c", for=10.0.0.2', client("203.0.113.9")),
        (
            "for=203.0.113.9;proto=https;host=example.com",
            {
                **client("203.0.113.9"),
                "wsgi.url_scheme": "https",
                "HTTPS": "on",
                "HTTP_HOST": "example.com",
                "SERVER_NAME": "example.com",
                "SERVER_PORT": "443",
            },
        ),
        (
            "proto=https;for=203.0.113.9, proto=http;for=10.0.0.2;host=inner.example",
            {**client("203.0.113.9"), "wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_PORT": "443"},
        ),
        ("for=6.6.6.6;proto=https;host=evil.example, for=203.0.113.9", client("203.0.113.9")),
        ("for=unknown;proto=https", {"wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_PORT": "443"}),
        ("for=_hidden, for=10.0.0.2", {}),
        ("for=6.6.6.6, for=unknown", {}),
        ("for=6.6.6.6;proto=https, proto=http", {"SERVER_PORT": "80"}),
        ("for 203.0.113.9, for=10.0.0.2;proto=https", {}),
        ("for=203.0.113.9;for=6.6.6.6", {}),
        ("for=203.0.113.9 proto=https", {}),
        ('for="203.0.113.9', {}),
        ('for="203.0.113.9\\"', {}),
        ("for", {}),
        ("=", {}),
        ("", {}),
        (";;,;;", {}),
    ],
)
def test_forwarded_is_read_from_the_right_too(value: str, changes: dict[str, str]) -> None:
    assert told(HTTP_FORWARDED=value) == changes


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"PROTO": "https"}, {"wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_PORT": "443"}),
        ({"PROTO": "HTTP"}, {"SERVER_PORT": "80"}),
        ({"PROTO": "https, http"}, {"SERVER_PORT": "80"}),
        ({"PROTO": "wss"}, {}),
        ({"PROTO": "https", "PORT": "8443"}, {"wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_PORT": "8443"}),
        ({"PORT": "0"}, {}),
        ({"PORT": "65536"}, {}),
        ({"PORT": "443x"}, {}),
        (
            {"HOST": "example.com"},
            {"HTTP_HOST": "example.com", "SERVER_NAME": "example.com", "SERVER_PORT": "80"},
        ),
        (
            {"HOST": "example.com:8080"},
            {"HTTP_HOST": "example.com:8080", "SERVER_NAME": "example.com", "SERVER_PORT": "8080"},
        ),
        (
            {"HOST": "evil.example, example.com"},
            {"HTTP_HOST": "example.com", "SERVER_NAME": "example.com", "SERVER_PORT": "80"},
        ),
        (
            {"HOST": "[2001:db8::1]:81"},
            {"HTTP_HOST": "[2001:db8::1]:81", "SERVER_NAME": "[2001:db8::1]", "SERVER_PORT": "81"},
        ),
        ({"HOST": "example.com:99999"}, {}),
        ({"HOST": "example.com/path"}, {}),
        ({"HOST": "user@example.com"}, {}),
        ({"HOST": "[::1::2]"}, {}),
        ({"HOST": "a" * 5000}, {}),
        ({"HOST": ""}, {}),
        ({"PREFIX": "/shop"}, {"SCRIPT_NAME": "/shop"}),
        ({"PREFIX": "/shop/v1.2/"}, {"SCRIPT_NAME": "/shop/v1.2"}),
        ({"PREFIX": "/"}, {}),
        ({"PREFIX": "shop"}, {}),
        ({"PREFIX": "//evil.example"}, {}),
        ({"PREFIX": "/shop//"}, {}),
        ({"PREFIX": "/shop/../admin"}, {}),
        ({"PREFIX": "/."}, {}),
        ({"PREFIX": "/shop?a=b"}, {}),
        ({"PREFIX": "/shop%2f"}, {}),
        ({"PREFIX": "/a, /b"}, {}),
    ],
)
def test_scheme_host_port_and_prefix(fields: dict[str, str], changes: dict[str, str]) -> None:
    assert told(**{f"HTTP_X_FORWARDED_{name}": value for name, value in fields.items()}) == changes


def test_with_the_scheme_comes_the_port_that_the_client_asked_for() -> None:
    assert told(HTTP_X_FORWARDED_PROTO="https", HTTP_HOST="example.com:8443")["SERVER_PORT"] == "8443"


def test_a_proxy_that_encrypts_what_it_got_in_plain() -> None:
    changes = told(
        **{"HTTP_X_FORWARDED_PROTO": "http", "wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_PORT": "443"}
    )
    assert changes == {"wsgi.url_scheme": "http", "HTTPS": None, "SERVER_PORT": "80"}


def test_one_malformed_field_does_not_spoil_another() -> None:
    changes = told(HTTP_X_FORWARDED_FOR="203.0.113.9", HTTP_X_FORWARDED_PROTO="gopher", HTTP_X_FORWARDED_HOST="a b")
    assert changes == client("203.0.113.9")


def test_a_forwarded_that_a_proxy_passes_on_from_a_client_is_not_believed() -> None:
    changes = told(HTTP_X_FORWARDED_FOR="203.0.113.9", HTTP_FORWARDED="for=6.6.6.6;proto=https;host=evil.example")
    assert changes == client("203.0.113.9")


def test_a_peer_on_a_unix_socket() -> None:
    assert told(peer="", REMOTE_ADDR="", REMOTE_PORT="", HTTP_X_FORWARDED_FOR="203.0.113.9") == {
        "REMOTE_ADDR": "203.0.113.9"
    }


CLAIMS = {
    "HTTP_FORWARDED": "for=6.6.6.6;host=evil.example;proto=https",
    "HTTP_X_FORWARDED_FOR": "6.6.6.6",
    "HTTP_X_FORWARDED_HOST": "evil.example",
    "HTTP_X_FORWARDED_PORT": "443",
    "HTTP_X_FORWARDED_PREFIX": "/evil",
    "HTTP_X_FORWARDED_PROTO": "https",
    "HTTP_X_FORWARDED_SSL": "on",
    "HTTP_X_REAL_IP": "6.6.6.6",
}


@pytest.mark.parametrize("peer", ["203.0.113.9", ""])
def test_with_nobody_trusted_all_stays_as_it_was_sent(peer: str) -> None:
    assert told(peer=peer, trusted=TrustedNetworks(()), **CLAIMS) == {}


def test_an_untrusted_peer_changes_nothing_and_its_claims_are_removed() -> None:
    assert told(peer="203.0.113.9", **CLAIMS, HTTP_X_REQUEST_ID="7", HTTP_COOKIE="a=b") == dict.fromkeys(CLAIMS)


def test_what_a_trusted_peer_says_stays_readable() -> None:
    assert not set(told(**CLAIMS)) & set(CLAIMS)


VALUES = (
    st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=60)
    | st.text('for=ptshy10.2:[]"\\;, \t_', max_size=60)
    | st.lists(
        ADDRESSES.map(str) | st.sampled_from(["10.0.0.2", "unknown", "for=10.0.0.3;proto=https", '"', ""]), max_size=5
    ).map(",".join)
)
FIELDS = st.dictionaries(st.sampled_from([*CLAIMS, "HTTP_HOST"]), VALUES)


@given(fields=FIELDS, peer=st.sampled_from([PROXY, "203.0.113.9", ""]))
def test_no_field_raises_or_puts_nonsense_where_the_client_stands(fields: dict[str, str], peer: str) -> None:
    environ = environ_of(**fields)
    apply_proxy_hints(environ, peer, TRUSTED, 0.0)
    ipaddress.ip_address(environ["REMOTE_ADDR"])
    assert environ["REMOTE_PORT"] == "" or 0 < int(environ["REMOTE_PORT"]) <= 65535
    assert environ["wsgi.url_scheme"] in ("http", "https")
    assert (environ.get("HTTPS") == "on") is (environ["wsgi.url_scheme"] == "https")
    assert 0 < int(environ["SERVER_PORT"]) <= 65535
    assert environ["SCRIPT_NAME"] == "" or environ["SCRIPT_NAME"].startswith("/")
    assert "//" not in environ["SCRIPT_NAME"]


@given(
    made_up=VALUES,
    address=st.ip_addresses().filter(lambda address: str(address) not in TRUSTED),
    hops=st.integers(0, 3),
)
def test_whatever_a_client_makes_up_its_own_address_is_told(made_up: str, address: Any, hops: int) -> None:
    own = str(getattr(address, "ipv4_mapped", None) or address)
    proxies = [f"10.0.0.{hop + 2}" for hop in range(hops)]
    chain = ", ".join([made_up, str(address), *proxies])
    assert told(HTTP_X_FORWARDED_FOR=chain) == client(own)
    node = f'"[{address}]"' if address.version == 6 else str(address)
    chain = ", ".join([made_up, f"for={node}", *(f"for={proxy}" for proxy in proxies)])
    assert told(HTTP_FORWARDED=chain) == client(own)
