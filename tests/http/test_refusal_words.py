"""The response and the log state the rule that a rejected request breaks, and contain no text from the client."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

GET = "GET / HTTP/1.1\r\n"
POST = "POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
RULES = {
    "two hosts": (f"{GET}Host: secret\r\nHost: y\r\n\r\n", 400, "has two Host fields"),
    "no host": (f"{GET}X: secret\r\n\r\n", 400, "has no Host field"),
    "empty host": (f"{GET}Host:\r\nX: secret\r\n\r\n", 400, "Host field is empty"),
    "bad host": (f"{GET}Host: secret/x\r\n\r\n", 400, "not allowed in a host"),
    "long port": (f"{GET}Host: secret:{'8' * 5000}\r\n\r\n", 400, "a port of more than five digits"),
    "long port in a target": ("GET http://secret:888888/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "more than five digits"),
    "two content types": (f"{POST}Content-Type: secret\r\nContent-Type: b\r\n\r\n", 400, "two Content-Type fields"),
    "two authorizations": (f"{POST}Authorization: secret\r\nAuthorization: b\r\n\r\n", 400, "two Authorization fields"),
    "two lengths": (f"{POST}Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "two Content-Length fields"),
    "bad length": (f"{POST}Content-Length: secret\r\n\r\n", 400, "Content-Length is not a whole number"),
    "long length": (f"{POST}Content-Length: {'0' * 5000}\r\nX: secret\r\n\r\n", 400, "more than 20 digits"),
    "signed length": (f"{POST}Content-Length: +1\r\n\r\n", 400, "Content-Length is not a whole number"),
    "length and chunked": (
        f"{POST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "both a Content-Length and a Transfer-Encoding",
    ),
    "chunked and length": (
        f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        400,
        "both a Content-Length and a Transfer-Encoding",
    ),
    "chunked twice": (f"{POST}Transfer-Encoding: chunked, secret\r\n\r\n", 400, "a value after chunked"),
    "empty coding": (f"{POST}Transfer-Encoding:\r\nX: secret\r\n\r\n", 400, "Transfer-Encoding is empty"),
    "unknown coding": (f"{POST}Transfer-Encoding: secret\r\n\r\n", 501, "no transfer coding except chunked"),
    "chunked HTTP/1.0": ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0 does not support"),
    "space in a name": (f"{GET}Host: x\r\nX secret: b\r\n\r\n", 400, "no colon, an empty name, or a name with a space"),
    "space before the colon": (f"{GET}Host: x\r\nContent-Length : 1\r\n\r\n", 400, "a space before its colon"),
    "space before the first field": (f"{GET} Host: secret\r\n\r\n", 400, "begins with a space"),
    "folded": (f"{GET}Host: x\r\nX: y\r\n secret\r\n\r\n", 400, "folded over two lines, which is obsolete"),
    "control character": (f"{GET}Host: x\r\nX: secret\0\r\n\r\n", 400, "value has a control character"),
    "line feed": (f"{GET}Host: secret\n\r\n", 400, "ends with LF without CR"),
    "line feed behind the line": ("GET /secret HTTP/1.1\nHost: x\r\n\r\n", 400, "does not end with CR LF right after"),
    "carriage return": (f"{GET}Host: x\r\nX: a\rsecret\r\n\r\n", 400, "CR without LF"),
    "fragment": ("GET /secret#x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "target has a #"),
    "control character in a target": ("GET /secret\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "must be percent-encoded"),
    "space in a target": ("GET /secret x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "a space in its target"),
    "relative target": ("GET secret HTTP/1.1\r\nHost: x\r\n\r\n", 400, "neither a path nor"),
    "other scheme": ("GET ftp://secret/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "neither a path nor"),
    "user in a target": ("GET http://secret@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "host of the request's target"),
    "no version": ("GET / secret\r\nHost: x\r\n\r\n", 400, "no version such as HTTP/1.1"),
    "no method": ("@secret / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "does not begin with a method"),
    "https to a plain port": ("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03secret", 400, "speaks plain HTTP"),
    "long method": ("SECRET" * 20 + " / HTTP/1.1\r\nHost: x\r\n\r\n", 501, "method is longer"),
    "CONNECT": ("CONNECT secret:1 HTTP/1.1\r\nHost: secret:1\r\n\r\n", 501, "does not support CONNECT"),
    "version": ("GET /secret HTTP/2.0\r\nHost: x\r\n\r\n", 505, "HTTP/1.0 and HTTP/1.1"),
    "HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.0 and HTTP/1.1"),
    "chunk size": (f"{CHUNKED}secret\r\n", 400, "no hexadecimal number"),
    "chunk end": (f"{CHUNKED}1\r\nsecret", 400, "does not end with CR LF"),
    "chunk extension": (f"{CHUNKED}1;\x01secret\r\n", 400, "malformed extension"),
    "length in a trailer": (f"{CHUNKED}0\r\nContent-Length: 6\r\nX: secret\r\n\r\n", 400, "belongs in the head"),
    "coding in a trailer": (f"{CHUNKED}0\r\nTransfer-Encoding: secret\r\n\r\n", 400, "belongs in the head"),
    "expectation": (f"{POST}Expect: secret\r\nContent-Length: 1\r\n\r\n", 417, "does not support this Expect field"),
    "long target": (f"GET /{'secret' * 2000} HTTP/1.1\r\nHost: x\r\n\r\n", 414, "target is longer"),
    "long field": (f"{GET}Host: x\r\nX: {'secret' * 9000}\r\n\r\n", 431, "header fields are more or larger"),
    "long body": (f"{POST}Content-Length: 99999999999\r\n\r\n", 413, "body is larger"),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_its_words_in_the_answer_and_in_the_log(serve, connect, echo, caplog, eventually, rule) -> None:
    data, status, words = RULES[rule]
    caplog.set_level("INFO", "intralb_gevent")
    client = connect(serve(echo))
    client.send(data)
    reply = client.reply()
    assert reply.status == status
    assert words in reply.body.decode()
    (line,) = eventually(lambda: caplog.messages)
    assert line.startswith(f"refused a request from 127.0.0.1: {status} ")
    assert words in line
    assert "secret" not in (line + reply.body.decode()).lower()


def test_a_request_that_comes_too_slowly_is_told_so(serve, connect, echo, caplog, eventually) -> None:
    caplog.set_level("INFO", "intralb_gevent")
    client = connect(serve(echo, header_timeout_seconds=0.01))
    client.send("GET /sec")
    assert b"did not arrive in time" in client.reply().body
    assert "did not arrive in time" in eventually(lambda: caplog.messages)[0]


HALVES = {"by length": f"{POST}Content-Length: 99\r\n\r\nsecret", "in chunks": f"{CHUNKED}6\r\nsecret\r\n"}


def half_close(client: Any) -> None:
    client.socket.shutdown(socket.SHUT_WR)
    reply = client.reply()
    assert (reply.status, client.rest()) == (400, b"")
    assert b"before the end of the request's body" in reply.body


def reset(client: Any) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("end", [half_close, reset, lambda client: client.close()], ids=["half", "reset", "closed"])
@pytest.mark.parametrize("framing", HALVES)
@pytest.mark.parametrize("before", ["", GET + "Host: x\r\n\r\n"], ids=["first", "second"])
def test_a_body_that_its_client_ends_halfway_is_in_the_log(
    serve, connect, echo, caplog, eventually, end, framing, before
) -> None:
    caplog.set_level("INFO", "intralb_gevent")
    server = serve(echo)
    client = connect(server)
    client.send(before + HALVES[framing])
    assert not before or client.reply().status == 200
    eventually(lambda: [each for each in server.connections if each.input.parser.in_body])
    end(client)
    (line,) = eventually(lambda: caplog.messages)
    assert line.startswith("refused a request from 127.0.0.1: 400 Bad Request: The client ended its data before ")
    assert "secret" not in line
    eventually(lambda: not server.connections)


def test_bad_chunks_behind_a_refused_head_are_named_too(serve, connect, caplog, eventually) -> None:
    """The client has already received its response, so only the log can report malformed chunks."""
    import gevent

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gevent.sleep(60)
        return []

    caplog.set_level("INFO", "intralb_gevent")
    server = serve(application, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    connect(server).send(GET + "Host: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    client = connect(server)
    client.send(CHUNKED)
    assert client.reply("POST").status == 503
    client.send("secret\r\n")
    (line,) = eventually(lambda: caplog.messages)
    assert "in the body of a request that was answered: 400 Bad Request: " in line
    assert "no hexadecimal number" in line
