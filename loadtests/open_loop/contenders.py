"""Who is measured: the servers that can run an application, and ours with each of its other limiters.

Decides which there are, and which of them if nobody is named. It must not know how they are driven.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from intralb_gevent.policy.limiters import LIMITERS

from ..side_by_side.servers import LIMIT, OURS, SERVERS, Server

__all__ = ["CONTENDERS", "USUAL", "is_ours"]

USUAL: Final = [name for name in SERVERS if name != LIMIT]
"""Those that are measured if none is named."""


def _with_limiter(limiter: str) -> Server:
    ours = SERVERS[OURS]

    def command(application: str, port: int) -> Sequence[str]:
        return [*ours.command(application, port), "--limiter", limiter]

    return dataclasses.replace(ours, name=f"{OURS}-{limiter}", title=f"intralb_gevent, {limiter}", command=command)


# The first is what ours has by default.
_LIMITED: Final = [_with_limiter(name) for name in [*LIMITERS][1:]]
CONTENDERS: Final = {name: SERVERS[name] for name in USUAL} | {server.name: server for server in _LIMITED}
"""All, by name, in the order in which they are measured and shown."""


def is_ours(name: str) -> bool:
    """Say whether a name stands for our server, with whichever limiter."""
    return CONTENDERS[name].package == CONTENDERS[OURS].package
