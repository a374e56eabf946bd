"""Serves an application with gevent's own server: `python -m loadtests.peers.pywsgi_server MODULE:APP PORT`.

Like any program that uses gevent.pywsgi, it patches, listens and serves. With --nodelay the listener sets TCP_NODELAY.
"""

from __future__ import annotations

import importlib
import socket
import sys

from gevent import monkey, pywsgi

if __name__ == "__main__":
    monkey.patch_all()


def main(reference: str, port: str, *flags: str) -> None:
    """Serve until killed."""
    module, _, name = reference.partition(":")
    application = getattr(importlib.import_module(module), name)
    server = pywsgi.WSGIServer(("127.0.0.1", int(port)), application, log=None)
    server.init_socket()
    if "--nodelay" in flags:
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
