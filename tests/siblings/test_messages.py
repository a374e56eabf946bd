"""Messages between processes of different versions, and the sockets that carry them."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from intralb_gevent.siblings.sockets import accept, bound_pids, connect, listen, listener_number, receive, send
from intralb_gevent.siblings.transfer import IDLE, MAX_DATA_BYTES, REQUEST, VERSION, Message, Transfer


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    ends = socket.socketpair()
    yield ends[0]
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    "transfer",
    [
        {"host": "192.0.2.1", "port": "4711", "begun": True, "identified": True, "expires": 12.5},
        {"kind": REQUEST, "data": b"GET / HTTP/1.1\r\n\nHost: a\xff\x00"},
        {"host": "2001:db8::1", "port": "1", "data": bytes(MAX_DATA_BYTES)},
        {},
    ],
)
def test_a_connection_is_the_same_on_the_other_side(sock: socket.socket, transfer: dict[str, Any]) -> None:
    sent = Transfer(sock, **transfer)
    message = Message.decoded(sent.message(7).encoded())
    assert message.number == 7
    assert Transfer.received(message, sock) == sent


def test_unknown_fields_are_ignored(sock: socket.socket) -> None:
    message = Message({"kind": IDLE, "number": 1, "host": "a", "colour": ["red"]})
    received = Transfer.received(Message.decoded(message.encoded()), sock)
    assert (received.host, received.expires) == ("a", math.inf)


@pytest.mark.parametrize(
    "packet",
    [
        *(b"", b"\x01", b"\x01not json\n", b"\x01[1, 2]\n", b"\x01{}\n", b"\x01" + b"\xff" * 100),
        b'%c{"kind":"idle","number":3}\n' % (VERSION + 1),
    ],
)
def test_what_is_not_understood_has_no_kind(packet: bytes) -> None:
    assert Message.decoded(packet).kind == ""


def test_the_number_of_a_later_version_can_be_refused() -> None:
    assert Message.decoded(b'%c{"kind":"idle","number":3}\n' % (VERSION + 1)).number == 3


def test_the_last_answer_of_a_process_that_has_ended_without_reading_everything_arrives() -> None:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(own):
        own.setblocking(False)
        send(own, b"never read")
        send(other, b"last answer")
        other.close()
        assert receive(own) == (b"last answer", None)
        assert receive(own) == (b"", None)


def test_descriptors_arrive_closed_on_exec(sock: socket.socket) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            receive(theirs)
        send(ours, b"x" * MAX_DATA_BYTES, sock.fileno())
        packet, descriptor = receive(theirs)
        assert packet == b"x" * MAX_DATA_BYTES
        assert descriptor is not None
        assert not os.get_inheritable(descriptor)
        with socket.socket(fileno=descriptor) as copy:
            assert os.fstat(copy.fileno()).st_ino == os.fstat(sock.fileno()).st_ino
        ours.close()
        assert receive(theirs) == (b"", None)


def test_processes_find_each_other_by_their_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        number = listener_number(listener)
        assert number != listener_number(other)
        assert bound_pids(number) == []
        with closing(listen(number)) as receiving:
            assert bound_pids(number) == [os.getpid()]
            assert accept(receiving) is None
            with closing(connect(number, os.getpid())):
                accepted = accept(receiving)
                assert accepted is not None
                accepted.close()
        assert bound_pids(number) == []
        with pytest.raises(OSError, match="refused"):
            connect(number, os.getpid())


def test_an_address_that_another_process_has_taken_is_not_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener_number(listener)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as intruder:
            # Process 1 never is one of ours.
            intruder.bind(f"\0intralb-gevent/{number}/1")
            intruder.listen()
            with pytest.raises(PermissionError, match="another process has the address of process 1"):
                connect(number, 1)
