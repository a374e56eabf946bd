"""Sends damaged bytes, in random pieces and at random times, to every port of our server.

There are five doors: plain HTTP, PROXY headers, TLS, HTTP within TLS, and the admin address. At each of them,
well-formed requests of another client must still be answered, every response must be well-formed, and every connection
must end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import pathlib
import random
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from ..common import LoadTestError
from .client import CutError, MalformedError, Reader
from .corpus import corpus
from .runs import Faults, LongTest, WatchedServer, run

_ABOUT: Final = """\
Send damaged requests, PROXY headers and TLS records to all ports of our server, in pieces of random sizes and with
random pauses. Check that every response is well-formed, that every connection ends, and that the well-formed requests
of another client are answered meanwhile."""
_WITNESS_SECONDS: Final = 5.0
"""Seconds within which a well-formed request must be answered while others are damaged."""
_END_SECONDS: Final = 20.0
"""Seconds within which the server must end a connection after its client has ended its side."""
_PAUSES: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.02)
"""Pauses between the pieces of an input, in seconds; one of them is chosen for each input."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)
_SHOWN_BYTES: Final = 300


@dataclass(frozen=True)
class Door:
    """A way into the server: a port, what comes before a request, and the encryption around it."""

    title: str
    port: int
    seeds: Sequence[bytes]
    """Well-formed inputs, which are damaged."""
    before: bytes = b""
    """What a well-formed connection begins with."""
    context: ssl.SSLContext | None = None
    path: str = "/witness"
    witness_context: ssl.SSLContext | None = None
    """The encryption of a well-formed request, if that of the damaged ones is part of the damage."""

    def connect(self, context: ssl.SSLContext | None) -> socket.socket:
        """Open a connection; the handshake of TLS is done if there is a context."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=_END_SECONDS)
        return connection if context is None else context.wrap_socket(connection)


_V1: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_ADDRESSES: Final = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 1234, 80)
_V2: Final = _SIGNATURE + b"\x21\x11" + struct.pack("!H", len(_ADDRESSES)) + _ADDRESSES
_V2_FIELDS: Final = _ADDRESSES + b"\x04\x00\x05hello" + b"\x20\x00\x05\x00\x00\x00\x00\x00"
_PROXIED: Final = (
    *(_V1, b"PROXY UNKNOWN\r\n", b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n", _V2),
    *(_SIGNATURE + b"\x20\x00\x00\x00", _SIGNATURE + b"\x21\x11" + struct.pack("!H", len(_V2_FIELDS)) + _V2_FIELDS),
)
"""PROXY headers of both versions (the specification is named in docs/guides/proxies.md)."""
_ASKED: Final = b"GET /witness HTTP/1.1\r\nHost: x\r\n\r\n"
_ADMIN_PATHS: Final = (
    b"/",
    b"/live",
    b"/ready",
    b"/snapshot",
    b"/metrics",
    b"/stack?id=1",
    b"/refused?q=x",
    b"/flames",
)


def _client_hello() -> bytes:
    """Return the first bytes of a TLS connection."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    begun = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    return outgoing.read()


def damaged(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one or several seeds in a row, with up to eight random changes."""
    data = bytearray(b"".join(chance.choices(seeds, k=chance.choice([1, 1, 1, 2, 5]))))
    for _ in range(chance.randrange(chance.choice([2, 3, 9]))):
        place = chance.randrange(len(data) + 1)
        end = place + chance.choice([0, 0, 1, 1, 2, 8, 100])
        data[place:end] = _replacement(data, chance)
    return bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data) + 1)])])


def _replacement(data: bytearray, chance: random.Random) -> bytes:
    kind = chance.randrange(5)
    if kind == 0:
        return b""
    if kind == 1:
        return chance.randbytes(chance.choice([1, 1, 2, 4, 16, 1000]))
    if kind == 2:
        # A part of the input once more.
        start = chance.randrange(len(data) + 1)
        return bytes(data[start : start + chance.choice([1, 10, 100])]) * chance.choice([1, 2, 50])
    special = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b" ",
        b"\t",
        b"0",
        b"-1",
        b"f" * 17,
        b"9" * 30,
        b"\xff",
        b"\x80",
        b",",
    ]
    return chance.choice(special) * (1 if kind == 3 else chance.choice([1, 2, 300]))


def _pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    size = chance.choice([1, 3, 20, 200, 10_000, 10_000])
    # Limit the number of pieces, so that large inputs do not take minutes.
    size = max(size, len(data) // 100)
    while data:
        cut = chance.randint(1, size)
        yield data[:cut]
        data = data[cut:]


class _Client:
    """One client that damages what it sends."""

    def __init__(self, number: int, seed: int, doors: Sequence[Door], faults: Faults, end: float) -> None:
        self._chance = random.Random(f"{seed} {number}")
        self._doors = doors
        self._faults = faults
        self._end = end
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        """Send damaged inputs until the end of the run."""
        while time.monotonic() < self._end:
            door = self._chance.choice(self._doors)
            data = damaged(door.seeds, self._chance)
            if door.before and self._chance.random() < 0.5:
                data = door.before + data
            self._try(door, data)

    def _try(self, door: Door, data: bytes) -> None:
        try:
            with door.connect(door.context) as connection:
                self._send(connection, data)
                ended = self._end_of(connection)
        except MalformedError as error:
            ended = "malformed"
            self._faults.add(f"{door.title}: {error}; sent was {data[:_SHOWN_BYTES]!r}")
        except TimeoutError:
            ended = "no end"
            self._faults.add(f"{door.title}: no end after {_END_SECONDS:g} s; sent was {data[:_SHOWN_BYTES]!r}")
        except (CutError, OSError):
            # The server may close or reset a connection within what is sent. (TimeoutError is an OSError, too.)
            ended = "cut"
        self.seen[f"{door.title}: {ended}"] += 1

    def _send(self, connection: socket.socket, data: bytes) -> None:
        pause = self._chance.choice(_PAUSES)
        for piece in _pieces(data, self._chance):
            connection.sendall(piece)
            if pause:
                time.sleep(pause)

    def _end_of(self, connection: socket.socket) -> str:
        """End the connection in one of several ways, and return how it ended."""
        kind = self._chance.randrange(8)
        if kind == 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            return "reset"
        if kind == 1 or isinstance(connection, ssl.SSLSocket):
            return "closed"
        connection.shutdown(socket.SHUT_WR)
        return self._answers(connection)

    def _answers(self, connection: socket.socket) -> str:
        """Read all responses to the end of the connection; anything but HTTP (or TLS's alert) is malformed."""
        if connection.recv(1, socket.MSG_PEEK) in (b"\x15", b"\x16"):
            while connection.recv(65536):
                pass
            return "TLS"
        reader, last = Reader(connection), "no answer"
        try:
            while (answer := reader.answer()) is not None:
                last = str(answer.status)
        finally:
            reader.close()
        return last


class _Witness:
    """A client of one door whose requests are well-formed, and must be answered."""

    def __init__(self, door: Door, faults: Faults, end: float) -> None:
        self._door = door
        self._faults = faults
        self._end = end
        self.asked = 0

    def run(self) -> None:
        """Ask again and again until the end of the run."""
        while time.monotonic() < self._end:
            began = time.monotonic()
            try:
                status = self._ask()
            except (OSError, http.client.HTTPException) as error:
                status = repr(error)
            took = time.monotonic() - began
            is_good = status == "200" and took < _WITNESS_SECONDS
            self._faults.require(is_good, f"{self._door.title}: the witness got {status} after {took:.1f} s")
            self.asked += 1
            time.sleep(0.1)

    def _ask(self) -> str:
        with self._door.connect(self._door.witness_context or self._door.context) as connection:
            connection.sendall(
                self._door.before + f"GET {self._door.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()
            return str(answer.status)


def fuzz(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; return the exit code."""
    clients = (16, "clients that send damaged bytes")
    return run(LongTest("fuzz", _ABOUT, 300, clients, "witness", (), _play), arguments)


def _play(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intralb-fuzz-")))
        begin = partial(_begin, stack, directory)
        proxied = begin("proxied", ["--proxy-protocol", "--trusted-proxies", "127.0.0.1"])
        certificate = _certificate(directory)
        encrypted = begin("encrypted", ["--certfile", str(certificate), "--keyfile", str(certificate)])
        servers = [server, proxied, encrypted]
        before = [each.become_quiet_and_count() for each in servers]
        _send(parsed, _doors(*servers), faults)
        for each, descriptors in zip(servers, before, strict=True):
            each.become_quiet(faults, descriptors)
        for each in (proxied, encrypted):
            each.end(faults)


def _begin(stack: contextlib.ExitStack, directory: pathlib.Path, name: str, flags: Sequence[str]) -> WatchedServer:
    (directory / name).mkdir()
    server = stack.enter_context(WatchedServer(directory / name, "witness", flags))
    server.begin()
    return server


def _certificate(directory: pathlib.Path) -> pathlib.Path:
    """Create a key and a certificate in one file, by OpenSSL's command. Raises `LoadTestError`."""
    file = directory / "certificate.pem"
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(file)]
    command = [
        "openssl",
        "req",
        "-x509",
        *key,
        "-out",
        str(directory / "alone.pem"),
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoadTestError(f"openssl cannot create a certificate: {error}") from None
    file.write_bytes(file.read_bytes() + (directory / "alone.pem").read_bytes())
    return file


def _doors(server: WatchedServer, proxied: WatchedServer, encrypted: WatchedServer) -> list[Door]:
    # The client cannot tell where a response to HEAD ends, because its input is damaged.
    requests = [each.data for each in corpus("name") if each.method != "HEAD"] + [_ASKED]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = [header + _ASKED for header in _PROXIED]
    asked = [b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in _ADMIN_PATHS]
    admin = int(urlsplit(server.target().admin_url).port or 0)
    return [
        Door("plain HTTP", server.port, requests),
        Door("PROXY header", proxied.port, [*headers, *requests], _V1),
        Door("TLS", encrypted.port, [_client_hello(), _ASKED], witness_context=context),
        Door("HTTP within TLS", encrypted.port, requests, context=context),
        Door("admin", admin, [*asked, *requests], path="/live"),
    ]


def _send(parsed: argparse.Namespace, doors: Sequence[Door], faults: Faults) -> None:
    end = time.monotonic() + parsed.seconds
    clients = [_Client(number, parsed.seed, doors, faults, end) for number in range(parsed.clients)]
    witnesses = [_Witness(door, faults, end) for door in doors]
    runs = [each.run for each in clients] + [each.run for each in witnesses]
    threads = [threading.Thread(target=each) for each in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = sum((client.seen for client in clients), Counter[str]())
    for kind, number in sorted(seen.items()):
        print(f"{number} x {kind}")
    print(f"{seen.total()} damaged inputs sent; {sum(each.asked for each in witnesses)} other requests answered")
