"""Print the settings that equal those of gunicorn, uWSGI or uvicorn: `intralb-gevent migrate`.

There is a module for each server. Each reads the other server's settings and describes, for each one, the equivalent
here, or why there is none.
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
    """Return a settings file that equals a configuration; raises `OptionError` if this cannot be read.

    `source` is the path of a file of gunicorn or uWSGI, or a command line of one of these servers, as a list of words
    or as a single word.
    """
    words = shlex.split(source[0]) if len(source) == 1 else list(source)
    # A command line may have been copied from a unit file or a Procfile, with a path, "web:" or "exec" before it.
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
