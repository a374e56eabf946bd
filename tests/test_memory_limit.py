"""Without memory for another greenlet, a request is answered 500; nothing of the request is left in the pool."""

from __future__ import annotations

import signal
import sys

import pytest

LIMITED = """
    import resource

    @at
    def limit():
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        pages = int(open("/proc/self/statm").read().split()[0])
        # The first frames of a greenlet need 16 KB from the kernel; most other objects fit into freed memory.
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
        os.mkdir("limited")
        while not os.path.exists("answered"):
            time.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limit of the address space")
def test_a_request_whose_greenlet_cannot_start_is_answered_and_loses_no_slot(serve_app) -> None:
    server = serve_app(LIMITED)
    # gevent itself may print a MemoryError.
    server.callbacks_may_fail = True
    server.asked("/limit")
    server.until((server.directory / "limited").exists)
    answers = [server.get("/") for _ in range(4)]
    (server.directory / "answered").mkdir()
    assert set(answers) <= {200, 500}
    assert 500 in answers
    assert "GET / failed: MemoryError" in server.said
    server.until(lambda: server.get("/") == 200)
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert "finishing 0 requests" in server.said
