"""The user, the groups and the pid file of a serving process."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from ..config.serving import ServingOptions
from ..errors import OptionError
from .binding import removed_at_the_end
from .readyfile import explained, require_replaceable, write_file

__all__ = ["Identity", "check_pid_file", "pid_file"]


_MOST_ID = 2**32 - 2
"""The highest user or group id; the kernel uses the next number for an id that does not change."""


@dataclass(frozen=True)
class Identity:
    """The user id and the group id to which a process changes; an id that is None is not changed."""

    user: int | None = None
    group: int | None = None
    name: str | None = None
    """Name of the user, whose supplementary groups the process also gets; None without an entry in /etc/passwd."""

    @classmethod
    def wanted_by(cls, options: ServingOptions) -> Identity:
        """Look up the user and the group.

        Raises `OptionError` if the user or the group is unknown, or if only root may change to them.
        """
        user, group, name = None, None, None
        if options.user is not None:
            user, group, name = _user(options.user)
        if options.group is not None:
            group = _group(options.group)
        if user is not None and group is None:
            raise OptionError(f"user: {options.user} has no entry in /etc/passwd; give the group too")
        wanted = cls(user, group, name)
        if wanted.changes and os.geteuid() != 0:
            setting = "user" if wanted.user not in (None, os.geteuid()) else "group"
            value = getattr(options, setting)
            raise OptionError(f"{setting}: {value!r} is not allowed here; only root can change to it, so start as root")
        return wanted

    @property
    def changes(self) -> bool:
        """True if `assume()` changes the user or the group of this process."""
        return self.user not in (None, os.geteuid()) or self.group not in (None, os.getegid())

    @property
    def owner(self) -> tuple[int, int]:
        """User id and group id for `os.chown`, which does not change an id of -1."""
        if not self.changes:
            return -1, -1
        return -1 if self.user is None else self.user, -1 if self.group is None else self.group

    def assume(self) -> None:
        """Change the user and the group of this process permanently."""
        if not self.changes:
            return
        if self.group is not None:
            if self.name is None:
                os.setgroups([self.group])
            else:
                os.initgroups(self.name, self.group)
            os.setgid(self.group)
        if self.user is not None:
            os.setuid(self.user)


def _number(setting: str, text: str) -> int | None:
    """Return the id that a text contains, or None if the text is a name."""
    if not text.isdecimal():
        return None
    if len(text) > len(str(_MOST_ID)) or int(text) > _MOST_ID:
        raise OptionError(f"{setting}: {text[:30]!r} is not allowed; an id is at most {_MOST_ID}")
    return int(text)


def _user(text: str) -> tuple[int, int | None, str | None]:
    """Return the user's id, group id and name; group and name are None for a number without an entry in /etc/passwd."""
    number = _number("user", text)
    try:
        entry = pwd.getpwnam(text) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is not None:
            return number, None, None
        raise OptionError(f"user: there is no user {text!r}; name one of /etc/passwd, or give a number") from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def _group(text: str) -> int:
    number = _number("group", text)
    try:
        return grp.getgrnam(text).gr_gid if number is None else number
    except KeyError:
        raise OptionError(f"group: there is no group {text!r}; name one of /etc/group, or give a number") from None


def check_pid_file(path: str | None) -> None:
    """Exit with a one-line message if the pid file, or another file in its directory, cannot be written."""
    if path is None:
        return
    refused = explained(f"cannot write the pid file {path!r}", "choose another --pid-file")
    with refused:
        require_replaceable(path)
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path) or os.curdir) as file:
            file.write(b"0")
            file.flush()


@contextlib.contextmanager
def pid_file(path: str | None, identity: Identity) -> Iterator[None]:
    """Write this process's id into a file, if a path is given, and remove the file at the end of the block."""
    if path is None:
        yield
        return
    write_file(path, f"{os.getpid()}\n", "pid file", "--pid-file")
    if identity.changes:
        os.chown(path, *identity.owner)
    with removed_at_the_end(path):
        yield
