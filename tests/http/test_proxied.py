"""Tests of the environ for connections through a proxy."""

import ssl
import struct
from wsgiref.validate import validator

import pytest
import trustme
from gevent import socket
from gevent import ssl as gevent_ssl

from intralb_gevent import LoadBalancer, Options, WSGIServer

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(
    "!BBH4s4sHH", 0x21, 0x11, 12, b"\xcb\x00\x71\x07", b"\xc0\x00\x02\x01", 4711, 80
)


def client_address(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['REMOTE_ADDR']} {environ['REMOTE_PORT']} {environ['wsgi.url_scheme']}".encode()]


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("cut", [0, 1, 15, 20])
def test_a_proxy_header_names_the_client(serve, connect, header, cut) -> None:
    client = connect(serve(validator(client_address), proxy_protocol=True, trusted_proxies=["127.0.0.1"]))
    client.send(header[:cut])
    client.send(header[cut:] + REQUEST + REQUEST)
    assert [client.reply().body for _ in range(2)] == [b"203.0.113.7 4711 http"] * 2


@pytest.mark.parametrize("junk", [REQUEST, b"PROXY nonsense\r\n", b"PROXY " + b"x" * 200])
def test_one_that_is_missing_or_malformed_is_a_close_and_a_line_in_the_log(
    serve, connect, eventually, caplog, junk
) -> None:
    caplog.set_level("INFO", "intralb_gevent")
    server = serve(client_address, proxy_protocol=True, trusted_proxies=["127.0.0.1"])
    client = connect(server)
    client.send(junk)
    assert client.closed_by_server
    eventually(lambda: "refused a connection from 127.0.0.1" in caplog.text)
    assert not server.connections


def test_a_request_that_has_just_come_behind_its_header_is_answered_by_a_server_that_stops(serve, connect) -> None:
    server = serve(client_address, proxy_protocol=True, trusted_proxies=["127.0.0.1"])
    client, halfway = connect(server), connect(server)
    client.send(V1 + REQUEST)
    halfway.send(V1[:20])
    # Stop the server before the hub can accept the connection.
    server.stop(5)
    reply = client.reply()
    assert (reply.body, reply.headers["connection"]) == (b"203.0.113.7 4711 http", "close")
    assert client.closed_by_server
    assert halfway.closed_by_server


def test_who_is_not_trusted_is_a_plain_client(serve, connect) -> None:
    server = serve(validator(client_address), proxy_protocol=True, trusted_proxies=["10.0.0.0/8"])
    client = connect(server)
    assert client.get(headers="X-Forwarded-For: 203.0.113.7\r\n").body.startswith(b"127.0.0.1 ")
    liar = connect(server)
    liar.send(V1 + REQUEST)
    assert liar.reply().status == 400


def test_forwarding_headers_of_a_trusted_proxy_are_believed(serve, connect) -> None:
    client = connect(serve(validator(client_address), trusted_proxies=["127.0.0.0/8"]))
    reply = client.get(headers="X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n")
    assert reply.body == b"203.0.113.7  https"


def test_by_default_nobody_is_trusted(serve, connect) -> None:
    client = connect(serve(validator(client_address)))
    assert client.get(headers="X-Forwarded-For: 203.0.113.7\r\n").body.startswith(b"127.0.0.1 ")


def test_tls_begins_behind_the_proxy_header() -> None:
    authority = trustme.CA()
    own, theirs = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(own)
    authority.configure_trust(theirs)
    balancer = LoadBalancer(client_address, Options(proxy_protocol=True, trusted_proxies=["127.0.0.1"]))
    with WSGIServer(("127.0.0.1", 0), balancer, ssl_context=own) as server:
        server.start()
        plain = socket.create_connection(("127.0.0.1", server.server_port))
        plain.sendall(V1)
        with theirs.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while part := client.recv(1000):
                data += part
    assert data.endswith(b"203.0.113.7 4711 https")


def test_a_proxy_that_is_not_trusted_is_told_of_once_with_the_setting(serve, connect, eventually, caplog) -> None:
    caplog.set_level("INFO", "intralb_gevent")
    client = connect(serve(client_address))
    for _ in range(250):
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
        client.reply()
    eventually(lambda: "--trusted-proxies 127.0.0.1" in caplog.text)
    assert caplog.text.count("seems to be a proxy") == 1


def test_a_few_such_requests_are_no_reason_to_say_anything(serve, connect, caplog) -> None:
    caplog.set_level("INFO", "intralb_gevent")
    client = connect(serve(client_address))
    for _ in range(50):
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
        client.reply()
    assert "seems to be a proxy" not in caplog.text
