"""Start the demo of the installed package, request its first page, and shut it down: `python tests/smoke.py`."""

import http.client
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 30.0


def main() -> None:
    """Exit with an error if the demo does not start, answer or shut down."""
    with tempfile.TemporaryDirectory() as directory:
        ready = Path(directory, "ready.json")
        command = [sys.executable, "-m", "intralb_gevent", "demo", "--bind", "127.0.0.1:0", "--ready-file", str(ready)]
        server = subprocess.Popen(command, cwd=directory)
        try:
            end = time.monotonic() + PATIENCE
            while not ready.exists():
                assert server.poll() is None, "the server has not started"
                assert time.monotonic() < end, "the server is not ready"
                time.sleep(0.02)
            port = json.loads(ready.read_text())["addresses"][0]["port"]
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()


if __name__ == "__main__":
    main()
