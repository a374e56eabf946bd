"""The random steps of a client, with weights: ways to send, wait, read and disconnect that a server must handle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from .client import Client, CutError, Line, MalformedError, head
from .ledger import receipt

_MOST_BODY_BYTES: Final = 2_000_000
_MOST_ANSWER_BYTES: Final = 3_000_000
_MALFORMED: Final = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    b"GET / HTTP/9.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


def step(client: Client) -> None:
    """Do one random step."""
    (chosen,) = client.random.choices([*STEPS], [*STEPS.values()])
    do(client, chosen)


def do(client: Client, chosen: Callable[[Client], None]) -> None:
    """Do a step; record exceptions as faults."""
    try:
        chosen(client)
    except (ConnectionError, CutError, MalformedError, TimeoutError) as error:
        # After the server has rejected the request, it can reset the connection during the upload.
        client.close()
        client.seen[type(error).__name__] += 1
        lost = isinstance(error, ConnectionResetError | BrokenPipeError)
        client.faults.require(lost, f"{chosen.__name__}: {type(error).__name__}: {error}")


def ask(client: Client) -> None:
    """Send a few requests on the reused connection."""
    for _ in range(client.random.randint(1, 5)):
        path = client.random.choice(["/quick", "/quick", "/wait", "/compute", "/stream"])
        size = client.random.choice([40, 40, 5000])
        _ask_once(client, path, size)


def _ask_once(client: Client, path: str, size: int) -> None:
    seconds = client.random.uniform(0, 0.005 if path == "/compute" else 0.02)
    number, target = client.target(path, seconds=f"{seconds:.4f}", size=size)
    line = client.kept()
    line.socket.sendall(head(target))
    answer = client.answer(line, number, path)
    if answer is not None:
        client.judge(answer, number, path, client.filled(number, size))
    if answer is None or answer.closes:
        client.close()


def ask_in_pieces(client: Client) -> None:
    """Send part of a request, then send the rest or disconnect."""
    number, target = client.target("/quick")
    request = head(target)
    cut = client.random.randrange(1, len(request))
    line = client.open()
    line.socket.sendall(request[:cut])
    time.sleep(client.random.uniform(0, 0.1))
    if client.random.random() < 0.4:
        client.book.was_not_run(number)
        _leave(client, line)
        return
    line.socket.sendall(request[cut:])
    _finish(client, line, number, "/quick")


def pipeline(client: Client) -> None:
    """Send many requests without waiting for responses."""
    asked = [client.target(client.random.choice(["/quick", "/stream"]), size=400) for _ in range(20)]
    asked = asked[: client.random.randint(2, 20)] if client.random.random() < 0.5 else asked
    line = client.open()
    with contextlib.closing(line):
        line.socket.sendall(b"".join(head(target) for _, target in asked))
        for number, target in asked:
            answer = client.answer(line, number, "a pipelined request")
            if answer is None:
                return
            client.judge(answer, number, target, client.filled(number, 400))
            if answer.closes:
                return


def pipeline_and_leave(client: Client) -> None:
    """Send many requests without waiting, read a few responses, and disconnect."""
    asked = [client.target("/wait", seconds=0.005, size=400) for _ in range(10)]
    line = client.open()
    line.socket.sendall(b"".join(head(target) for _, target in asked))
    for number, target in asked[: client.random.randint(0, 3)]:
        answer = client.answer(line, number, target)
        if answer is None:
            break
        client.judge(answer, number, target, client.filled(number, 400))
        if answer.closes:
            break
    _leave(client, line)


def read_slowly(client: Client) -> None:
    """Read a large response in small pieces, with pauses."""
    size = client.random.randint(100_000, _MOST_ANSWER_BYTES)
    path = client.random.choice(["/quick", "/stream"])
    number, target = client.target(path, size=size)
    line = client.open(receive_bytes=32768)
    line.socket.sendall(head(target))
    time.sleep(client.random.uniform(0, 0.3))
    _finish(client, line, number, path, client.filled(number, size))


def leave(client: Client) -> None:
    """Send a request, and disconnect before or during the response."""
    path = client.random.choice(["/wait", "/stream", "/quick"])
    _, target = client.target(path, seconds=0.05, size=client.random.choice([40, 1_000_000]))
    line = client.open()
    line.socket.sendall(head(target))
    time.sleep(client.random.choice([0, 0, 0.001, 0.02, 0.06]))
    _leave(client, line)


def finish_sending(client: Client) -> None:
    """Shut down the sending side, and read the response."""
    number, target = client.target("/wait", seconds=0.01)
    line = client.open()
    line.socket.sendall(head(target))
    line.socket.shutdown(1)
    _finish(client, line, number, "/wait")


def upload(client: Client) -> None:
    """Send a request with a body, chunked or with a length, in pieces of random size."""
    body = client.random.randbytes(int(_MOST_BODY_BYTES ** client.random.random()))
    number, target = client.target("/upload")
    is_chunked = client.random.random() < 0.5
    coding = "Transfer-Encoding: chunked\r\n" if is_chunked else f"Content-Length: {len(body)}\r\n"
    line = client.open()
    line.socket.sendall(head(target, "POST", coding))
    _send_in_pieces(client, line, body, is_chunked)
    _finish(client, line, number, "/upload", receipt(client.identity(number), body))


def upload_half(client: Client) -> None:
    """Disconnect in the middle of a body."""
    number, target = client.target("/upload")
    line = client.open()
    line.socket.sendall(head(target, "POST", "Content-Length: 300000\r\n"))
    line.socket.sendall(bytes(client.random.randrange(300_000)))
    client.book.was_not_run(number)
    _leave(client, line)


def come_too_late(client: Client) -> None:
    """Send a request that its deadline aborts."""
    path = client.random.choice(["/late/wait"] * 8 + ["/late/compute"])
    number, target = client.target(path)
    line = client.open()
    line.socket.sendall(head(target))
    _finish(client, line, number, path, otherwise=504)


def be_cut(client: Client) -> None:
    """Request a response that a deadline or an error ends midway, and check that it does not look complete."""
    path = client.random.choice(["/late/stream", "/error/stream"])
    number, target = client.target(path)
    with contextlib.closing(client.open()) as line:
        line.socket.sendall(head(target))
        answer = client.answer(line, number, path, otherwise="cut")
        if answer is None:
            client.book.was_run(number)
        elif answer.status == 200:
            client.faults.add(f"{path}: what was cut looks whole: {answer.body[:80]!r}")
        else:
            # The handler is sometimes aborted before the first part is sent.
            client.judge(answer, number, path, b"", otherwise=504 if path == "/late/stream" else 500)


def meet_an_error(client: Client) -> None:
    """Request a path that fails."""
    number, target = client.target("/error")
    line = client.open()
    line.socket.sendall(head(target))
    _finish(client, line, number, "/error", otherwise=500)


def be_malformed(client: Client) -> None:
    """Send data that is not HTTP."""
    with contextlib.closing(client.open()) as line:
        line.socket.sendall(client.random.choice(_MALFORMED))
        answer = line.reader.answer()
        status = answer.status if answer else 0
        client.seen[str(status)] += 1
        client.faults.require(400 <= status <= 505, f"what is malformed was answered {status}")


def upgrade(client: Client) -> None:
    """Ask the application to take over a connection, and exchange lines with it."""
    number, target = client.target("/upgrade")
    line = client.open()
    line.socket.sendall(head(target, "GET", "Connection: Upgrade\r\nUpgrade: ledger\r\n"))
    answer = client.answer(line, number, "/upgrade")
    if answer is not None and answer.status == 101:
        client.book.was_answered(number)
        client.seen["101"] += 1
        _talk(client, line, number)
    elif answer is not None:
        client.judge(answer, number, "/upgrade", b"")
    _leave(client, line)


def _talk(client: Client, line: Line, number: int) -> None:
    for line_number in range(client.random.randint(0, 5)):
        line.socket.sendall(f"{line_number}\n".encode())
        heard = line.reader.line()
        expected = f"{client.identity(number)} {line_number}\n".encode()
        client.faults.require(heard == expected, f"an upgraded connection said {heard!r}, not {expected!r}")
        time.sleep(client.random.uniform(0, 0.02))


def _send_in_pieces(client: Client, line: Line, body: bytes, is_chunked: bool) -> None:
    largest = client.random.choice([len(body) // 3 + 1, 70_000, 8_000])
    for begin in range(0, len(body), largest):
        piece = body[begin : begin + largest]
        line.socket.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
    if is_chunked:
        line.socket.sendall(b"0\r\n\r\n")


def _finish(client: Client, line: Line, number: int, path: str, body: bytes | None = None, otherwise: int = 0) -> None:
    with contextlib.closing(line):
        answer = client.answer(line, number, path)
        if answer is not None:
            client.judge(answer, number, path, client.filled(number) if body is None else body, otherwise)


def _leave(client: Client, line: Line) -> None:
    line.reset() if client.random.random() < 0.5 else line.close()


STEPS: Final[dict[Callable[[Client], None], int]] = {
    ask: 30,
    ask_in_pieces: 8,
    pipeline: 8,
    pipeline_and_leave: 5,
    read_slowly: 4,
    leave: 10,
    finish_sending: 5,
    upload: 8,
    upload_half: 3,
    come_too_late: 3,
    be_cut: 4,
    meet_an_error: 4,
    be_malformed: 4,
    upgrade: 6,
}
"""The weight of each step."""
