"""Tests of systemd's protocol between real processes: notifications, inherited descriptors, and supervisor state."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from intralb_gevent import OptionError
from intralb_gevent.supervise import descriptors
from intralb_gevent.supervise.notify import (
    REQUESTS,
    Message,
    Notifier,
    NotifySocket,
    status,
    traceback_field,
    watchdog_seconds,
)
from intralb_gevent.supervise.statefile import StateFile


@pytest.fixture
def notifier(inbox: NotifySocket) -> Iterator[Notifier]:
    notifier = Notifier(inbox.address)
    yield notifier
    notifier.close()


@pytest.fixture
def inbox() -> Iterator[NotifySocket]:
    notify = NotifySocket()
    yield notify
    notify.close()


def received(inbox: NotifySocket) -> list[Message]:
    assert select.select([inbox], [], [], 10)[0]
    return list(inbox.received())


def test_a_notification_arrives_with_the_sender_that_the_kernel_names(inbox: NotifySocket) -> None:
    code = (
        "from intralb_gevent.supervise.notify import *; import sys; Notifier(sys.argv[1]).send('READY=1', 'STATUS=a=b')"
    )
    child = subprocess.Popen([sys.executable, "-c", code, inbox.address], env={**os.environ, "PYTHONPATH": ROOT})
    (message,) = received(inbox)
    assert message == (child.pid, {"READY": "1", "STATUS": "a=b"})
    assert child.wait() == 0


ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_what_the_receiver_has_no_space_for_precedes_the_next_notification(
    inbox: NotifySocket, notifier: Notifier
) -> None:
    count = 0
    while not notifier._unsent:
        notifier.send("WATCHDOG=1")
        count += 1
        assert count < 100_000
    notifier.send("READY=1")
    received(inbox)
    notifier.send("STATUS=there")
    (message,) = received(inbox)
    assert message.fields == {"WATCHDOG": "1", "READY": "1", "STATUS": "there"}


def test_repeated_notifications_do_not_displace_the_one_that_a_process_is_ready(
    inbox: NotifySocket, notifier: Notifier
) -> None:
    while not notifier._unsent:
        notifier.send("WATCHDOG=1")
    notifier.send("READY=1", "STATUS=serving")
    for number in range(100):
        notifier.send("WATCHDOG=1", f"{REQUESTS}={number}")
    received(inbox)
    notifier.send("WATCHDOG=1")
    (message,) = received(inbox)
    assert message.fields == {"READY": "1", "STATUS": "serving", "WATCHDOG": "1", REQUESTS: "99"}


def test_a_receiver_that_has_ended_is_ignored() -> None:
    notify = NotifySocket()
    notifier = Notifier(notify.address)
    notify.close()
    notifier.send("READY=1")
    assert not notifier._unsent
    notifier.close()
    Notifier(None).send("READY=1")


def test_a_status_is_one_line_and_a_traceback_many(inbox: NotifySocket, notifier: Notifier) -> None:
    notifier.send(status("a\nREADY=1\n b"), traceback_field("one\n  two\nREADY=1"))
    (message,) = received(inbox)
    assert message.fields["STATUS"] == "a READY=1 b"
    assert "READY" not in message.fields
    assert message.traceback == "one\n  two\nREADY=1"


def test_the_variables_are_taken_once() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7", "HOME": "/"}
    notifier = Notifier.taken_from(environ)
    assert notifier.address == "/run/notify"
    notifier.close()
    assert watchdog_seconds(dict(environ, WATCHDOG_USEC="2000000"), 8) is None
    assert watchdog_seconds(environ, 7) == 2
    assert environ == {"HOME": "/"}
    with pytest.raises(OptionError, match="NOTIFY_SOCKET: 'tcp:1' is not allowed"):
        Notifier.taken_from({"NOTIFY_SOCKET": "tcp:1"})


PRINTS = """
import json, os, socket, sys
from intralb_gevent.supervise import descriptors
found = descriptors.take(os.environ, os.getpid())
for each in found:
    if each.name != "state":
        descriptors.check_listener(each)
names = [socket.socket(fileno=os.dup(each.number)).getsockname()[1] for each in found if each.name != "state"]
kept = [os.get_inheritable(each.number) for each in found]
print(json.dumps([[each.name for each in found], names, kept, [n for n in os.environ if n.startswith("LISTEN_")]]))
"""

PASSES = """
import os, socket, sys
from intralb_gevent.supervise.descriptors import Descriptor, move_to_start
# Numbers that are in the way: these descriptors change places.
first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
ports = [each.getsockname()[1] for each in (first, second)]
copies = [os.dup(each.fileno()) for each in (first, second)]
os.dup2(copies[0], 4); os.dup2(copies[1], 3)
file = os.memfd_create("state")
environ = move_to_start([Descriptor(4, "a"), Descriptor(3, "admin"), Descriptor(file, "state")])
print(ports, flush=True)
os.execve(sys.executable, [sys.executable, "-c", sys.argv[1]], {**os.environ, **environ})
"""


def test_descriptors_pass_through_an_exec_in_their_order() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASSES, PRINTS],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    ports, found = done.stdout.splitlines()
    assert json.loads(found) == [["a", "admin", "state"], json.loads(ports), [False] * 3, []]


def test_descriptors_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert descriptors.take(environ, os.getpid()) == []
    assert environ == {}


@pytest.mark.parametrize("microseconds", ["", "0", "-5", "soon", "1" * 21, "1" * 400, "1" * 5000])
def test_a_watchdog_time_that_is_no_number_of_64_bits_is_ignored(microseconds: str) -> None:
    environ = {"WATCHDOG_USEC": microseconds}
    assert watchdog_seconds(environ, 7) is None
    assert environ == {}


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("x", "'x' is not allowed"),
        ("5000", r"descriptor \d+ is not open"),
        ("1" * 5000, "'1{30}' is not allowed; it must be a number of descriptors"),
    ],
)
def test_wrong_descriptors_are_errors(count: str, said: str) -> None:
    code = textwrap.dedent("""
        import os, sys
        from intralb_gevent.supervise.descriptors import take
        take({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[1]}, os.getpid())
    """)
    environ = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run([sys.executable, "-c", code, count], env=environ, capture_output=True, text=True, timeout=20)
    assert pytest.importorskip("re").search(said, done.stderr)


def test_only_listening_stream_sockets_are_listeners() -> None:
    with socket.socket() as sock, open(os.devnull) as file, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for each, said in ((sock, "not a listening"), (file, "not a socket"), (datagrams, "not a listening")):
            with pytest.raises(OptionError, match=said):
                descriptors.check_listener(descriptors.Descriptor(each.fileno(), "name"))
        sock.listen()
        descriptors.check_listener(descriptors.Descriptor(sock.fileno(), "name"))


def test_a_state_is_read_whole_while_it_is_written() -> None:
    written = StateFile()
    assert StateFile(written.descriptor).read() == {}
    code = textwrap.dedent("""
        import sys
        from intralb_gevent.supervise.statefile import StateFile
        state = StateFile(int(sys.argv[1]))
        for count in range(20000):
            state.write({"text": str(count) * (count % 3000 + 1), "count": count})
    """)
    arguments = [sys.executable, "-c", code, str(written.descriptor)]
    writer = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": ROOT}, pass_fds=[written.descriptor])
    reads = 0
    while writer.poll() is None:
        state = written.read()
        if state:
            assert state["text"] == str(state["count"]) * (state["count"] % 3000 + 1)
            reads += 1
    assert writer.returncode == 0
    assert reads
