"""Translate the settings of gunicorn, uWSGI or uvicorn into settings of this server: `intralb-gevent migrate`.

There is one module for each of these servers. The module reads the server's settings and returns, for each setting, the
equivalent setting of this server, or the reason why there is no equivalent.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ...errors import OptionError
from . import gunicorn, uvicorn, uwsgi
from .equivalents import Equivalent, settings_file

__all__ = ["migrate"]

_READERS: Final[Mapping[str, Callable[[Sequence[str]], list[Equivalent]]]] = {
    "gunicorn": gunicorn.from_command,
    "uwsgi": uwsgi.from_command,
    "uvicorn": uvicorn.from_command,
}


def migrate(source: Sequence[str]) -> str:
    """Return the text of a settings file that is equivalent to `source`; raises `OptionError` if this is impossible.

    `source` is the path of a configuration file of gunicorn or uWSGI, or a command line that starts gunicorn, uWSGI or
    uvicorn. The command line is either split into words, or a single string in the list.
    """
    words = shlex.split(source[0]) if len(source) == 1 else list(source)
    # Search for the server's name: in a unit file or a Procfile, the name may follow a path, "web:" or "exec".
    for index, word in enumerate(words):
        server = word.rsplit("/", 1)[-1]
        if server in _READERS:
            return settings_file(shlex.join(words[index:]), _READERS[server](words[index + 1 :]))
    if len(words) == 1 and words[0].endswith(".py"):
        return settings_file(words[0], gunicorn.from_file(words[0]))
    if len(words) == 1 and words[0].endswith(".ini"):
        return settings_file(words[0], uwsgi.from_file(words[0]))
    raise OptionError(
        f"migrate: {' '.join(words)!r} is not allowed; give gunicorn.conf.py, a uwsgi.ini, or a command line that "
        f"starts with {', '.join(_READERS)}"
    )
