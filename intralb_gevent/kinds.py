"""The kinds of values that a setting can have: what is allowed in words, how it is checked, read and written.

Decides what a valid number, switch, address and so on is. It must not know any setting by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from .errors import LoadError, OptionError
from .loading import load_callable

__all__ = [
    "Kind",
    "choice",
    "client_key",
    "function",
    "header",
    "integer",
    "limiter",
    "path_prefix",
    "peers",
    "require",
    "seconds",
    "switch",
]

_TOKEN = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+").fullmatch
"""The name of a header field that reaches a WSGI application, so without underscores (RFC 9110, 5.6.2)."""

_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[0-9A-Za-z._~-]+)+").fullmatch


class _BadEntry(ValueError):
    """One entry of a list is not allowed; the message names it and says what is."""


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value: what is allowed in words, and how to check it and read it from text."""

    allowed: str
    placeholder: str
    """Stands for the value where a flag is described."""
    convert: Callable[[Any], Any]
    """Takes a Python value, returns the one to keep; raises ValueError when it is not allowed.

    An OptionError from here, or from `parse`, is taken to say all by itself.
    """
    parse: Callable[[str], Any]
    """Takes the text of a flag or variable, returns a Python value; raises ValueError when it cannot."""
    textual: bool = False
    """Whether a settings file, which has types of its own, writes it as text too."""
    write: Callable[[Any], Any] = _unchanged
    """Takes a kept value, returns what a settings file says for it."""
    joined_by: str = ""
    """What joins the texts of a flag that is given several times; '' if the last of them counts."""

    def check(self, name: str, value: Any) -> Any:
        """Return the value to keep for the field `name`, or raise OptionError."""
        try:
            return self.convert(value)
        except OptionError:
            raise
        except _BadEntry as error:
            raise OptionError(f"{name}: {error}") from None
        except (ValueError, OverflowError):
            raise OptionError(f"{name}: {value!r} is not allowed; it must be {self.allowed}") from None

    def read(self, name: str, text: str) -> Any:
        """Return the value that `text` says for the field `name`, or raise OptionError."""
        try:
            return self.check(name, self.parse(text))
        except LoadError as error:
            raise OptionError(f"{name}: {error}") from None
        except OptionError:
            raise
        except ValueError:
            raise OptionError(f"{name}: {text!r} is not allowed; it must be {self.allowed}") from None


def require(condition: bool) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError


def integer(minimum: int) -> Kind:
    """Return the kind of whole numbers from `minimum` on."""

    def convert(value: Any) -> int:
        require(isinstance(value, int) and not isinstance(value, bool) and value >= minimum)
        return int(value)

    return Kind(f"a whole number of at least {minimum}", "NUMBER", convert, int)


_MOST_SECONDS = 1e9
"""Some thirty years; the timers of Python and of the kernel do not take just any number."""


def seconds(*, positive: bool) -> Kind:
    """Return the kind of seconds, above 0 or from 0 on, that a timer takes."""

    def convert(value: Any) -> float:
        require(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
        require((value > 0 if positive else value >= 0) and value <= _MOST_SECONDS)
        return float(value)

    allowed = f"a number of seconds, {'above 0' if positive else '0 or more'} (1e9 at most)"
    return Kind(allowed, "SECONDS", convert, float)


def wait(*, positive: bool = False) -> Kind:
    """Return the kind of the longest wait: seconds, above 0 or from 0 on, or off, which is kept as infinity."""
    finite = seconds(positive=positive)

    def convert(value: Any) -> float:
        return math.inf if value in ("off", math.inf) else float(finite.convert(value))

    def parse(text: str) -> Any:
        return text if text == "off" else float(text)

    def write(value: float) -> float | str:
        return "off" if value == math.inf else value

    allowed = f"{finite.allowed}, or off"
    return Kind(allowed, "SECONDS|off", convert, parse, textual=True, write=write)


def switch() -> Kind:
    """Return the kind that is true or false."""
    words = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

    def convert(value: Any) -> bool:
        require(isinstance(value, bool))
        return bool(value)

    def parse(text: str) -> bool:
        require(text.lower() in words)
        return words[text.lower()]

    return Kind("true or false", "true|false", convert, parse)


def choice(*choices: str) -> Kind:
    """Return the kind that is one of these words."""

    def convert(value: Any) -> str:
        require(value in choices)
        return str(value)

    return Kind(f"one of {', '.join(choices)}", "|".join(choices), convert, str, textual=True)


def function() -> Kind:
    """Return the kind of callables, which a text names."""

    def convert(value: Any) -> Callable[..., Any]:
        require(callable(value))
        return value  # type: ignore[no-any-return]  # callable() has just said so

    return Kind("a callable (in text: MODULE:NAME)", "MODULE:NAME", convert, load_callable, textual=True)


def limiter(*names: str) -> Kind:
    """Return the kind of limiters: one of these names, or a function, which a text names."""

    def convert(value: Any) -> Any:
        require(callable(value) or value in names)
        return value

    def parse(text: str) -> Any:
        return load_callable(text) if ":" in text else text

    allowed = f"one of {', '.join(names)}, or a callable (in text: MODULE:NAME)"
    return Kind(allowed, "NAME|MODULE:NAME", convert, parse, textual=True)


def client_key() -> Kind:
    """Return the kind of what tells clients apart: address, off, the name of a header field, or a function."""

    def convert(value: Any) -> Any:
        require(callable(value) or (isinstance(value, str) and _TOKEN(value) is not None))
        return value

    def parse(text: str) -> Any:
        return load_callable(text) if ":" in text else text

    allowed = "address, off, the name of a header field, or a callable (in text: MODULE:NAME)"
    return Kind(allowed, "address|HEADER|off|MODULE:NAME", convert, parse, textual=True)


def header() -> Kind:
    """Return the kind of names of header fields."""

    def convert(value: Any) -> Any:
        require(isinstance(value, str) and _TOKEN(value) is not None)
        return value

    return Kind("the name of a header field", "HEADER", convert, _unchanged, textual=True)


def peers() -> Kind:
    """Return the kind of lists of addresses and networks."""
    allowed = "IP addresses, networks such as 10.0.0.0/8, and the word unix, as a list (in text: with commas)"

    def convert(value: Any) -> tuple[str, ...]:
        require(isinstance(value, (list, tuple)))
        return tuple(_peer(entry) for entry in value)

    def parse(text: str) -> list[str]:
        return [entry.strip() for entry in text.split(",")] if text.strip() else []

    return Kind(allowed, "ADDRESS,...", convert, parse, textual=True)


def path_prefix() -> Kind:
    """Return the kind of paths that others are below, as a proxy may write them in X-Forwarded-Prefix."""

    def convert(value: Any) -> str:
        require(isinstance(value, str) and _PREFIX(value) is not None)
        return str(value)

    allowed = "a path such as /app, of letters, digits and -._~, without a slash at its end"
    return Kind(allowed, "PATH", convert, str, textual=True)


def _peer(entry: Any) -> str:
    if entry == "unix":
        return "unix"
    try:
        # A zone (fe80::1%eth0) would be ignored where the peer is compared.
        require(isinstance(entry, str) and "%" not in entry)
        interface = ip_interface(entry)
    except ValueError:
        allowed = "an IP address, a network such as 10.0.0.0/8, or the word unix"
        raise _BadEntry(f"{entry!r} is not allowed; each entry must be {allowed}") from None
    if interface.ip != interface.network.network_address:
        raise _BadEntry(f"{entry!r} has bits beyond its prefix; write {interface.network} or {interface.ip}")
    return str(entry)
