"""Serves an application with gevent's own server: `python -m loadtests.side_by_side.pywsgi_server MODULE:APP PORT`.

Decides what a program of gevent.pywsgi's does by itself: patch, listen, serve; with --nodelay its listener sends small
packets at once. It must not know that it is measured.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import importlib
import socket
import sys

from gevent import pywsgi

__all__ = ["main"]


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
