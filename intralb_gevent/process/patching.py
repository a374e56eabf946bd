"""Monkey-patches the process, in a time that does not depend on the number of installed packages.

For each module that it patches, gevent searches the metadata of all installed packages for plugins. With a hundred
packages, these searches would take more time than the rest of the patching. Therefore, the metadata is read once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

__all__ = ["patch_process"]


def patch_process() -> None:
    """Call gevent's `patch_all`, without its warning about modules that were imported too early."""
    from gevent import monkey

    with warnings.catch_warnings(), _entry_points_read_once():
        # `check` and `serve` report modules that were imported too early, and so does the worker under gunicorn.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()


@contextmanager
def _entry_points_read_once() -> Iterator[None]:
    read = metadata.entry_points
    metadata.entry_points = read().select
    try:
        yield
    finally:
        metadata.entry_points = read
