"""Replaces all processes 100 times under 40 clients that keep their connections and 20 that connect for each request.

`python -m loadtests.reloads [reload|usr2|recycling|gunicorn] [TIMES]` prints what the clients have seen; the exit code
is 1 if a request failed, or if a kept connection was closed or announced to close.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from .clients import Clients
from .sites import KINDS


def main(kind: str = "reload", times: str = "100") -> int:
    """Run one kind of replacement, and return the exit code."""
    began, replaced = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as directory:
        site = KINDS[kind](Path(directory))
        clients = Clients(site.port, kept=40, anew=20)
        try:
            for replaced in range(1, int(times) + 1):
                site.replace()
                if clients.failures:
                    print(f"after replacement {replaced}: {clients.failures}", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            clients.stop()
            code = site.stop()
    print(
        f"{kind}: {replaced} replacements in {time.monotonic() - began:.0f} s, {len(clients.pids)} processes answered"
    )
    for text, count in sorted(clients.seen.items()):
        print(f"  {count} {text}")
    print(f"  exit code {code}")
    return int(bool(clients.failures or code))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
