"""Clients that send one request after another over one connection each, and notice when it closes."""

from __future__ import annotations

import contextlib
import http.client
import threading

PATIENCE = 25.0


class KeptClients:
    """Threads that send one request after another over one connection each, and repeat none."""

    def __init__(self, port: int, count: int = 8, pause: float = 0.01) -> None:
        self._port = port
        self._pause = pause
        self.failures: list[str] = []
        self.pids: set[int] = set()
        self.answers = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> KeptClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        connection.connect()
        connection.auto_open = 0
        with contextlib.closing(connection):
            while not self._stop.wait(self._pause):
                try:
                    connection.request("GET", "/")
                    response = connection.getresponse()
                    self.pids.add(int(response.read().split()[0]))
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))
                    return
                self.answers += 1
                if response.status != 200 or response.will_close:
                    self.failures.append(f"{response.status} {dict(response.getheaders())}")
                    return
