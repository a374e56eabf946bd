"""The kinds of values that a setting can have, such as numbers, switches and addresses.

A kind describes the allowed values, checks a value, parses it from text, and writes it to a settings file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any, Final

from ..errors import LoadError, OptionError
from .importer import load_callable

__all__ = [
    "MOST_BYTES",
    "BadEntry",
    "Kind",
    "choice",
    "client_key",
    "function",
    "header",
    "integer",
    "limiter",
    "metrics_target",
    "path_prefix",
    "peers",
    "require",
    "seconds",
    "switch",
]

_TOKEN = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+").fullmatch
"""Matches a header field name (RFC 9110, 5.6.2) without underscores, because fields with underscores do not reach the
application."""

_STATSD = re.compile(r"(?:dog)?statsd://(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+):([0-9]{1,5})").fullmatch
_MOST_PORT = 65535
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[0-9A-Za-z._~-]+)+").fullmatch


class BadEntry(ValueError):
    """Raised if an entry of a list is not allowed; the message contains the entry and what is allowed."""


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value, with functions that check a value, parse it from text, and write it to a settings file."""

    allowed: str
    """Description of the allowed values, for error messages and docs/reference/settings.md."""
    placeholder: str
    """Placeholder for the value in the help text of a flag."""
    convert: Callable[[Any], Any]
    """Function that converts a Python value to the stored value, and raises ValueError if the value is not allowed.

    If `convert` or `parse` raises an OptionError, its message is used unchanged.
    """
    parse: Callable[[str], Any]
    """Function that parses the text of a flag or variable into a Python value; it raises ValueError if the text is
    invalid."""
    textual: bool = False
    """True if a TOML file also contains the value as a string, and not as a native TOML type."""
    write: Callable[[Any], Any] = _unchanged
    """Function that converts a stored value to its representation in a settings file."""
    joined_by: str = ""
    """Separator that joins the texts if a flag is given several times; '' if only the last text is used."""

    def check(self, name: str, value: Any) -> Any:
        """Return the value to store for the field `name`, or raise OptionError."""
        try:
            return self.convert(value)
        except OptionError:
            raise
        except BadEntry as error:
            raise OptionError(f"{name}: {error}") from None
        except (ValueError, OverflowError):
            raise OptionError(f"{name}: {_shown(value)} is not allowed; it must be {self.allowed}") from None

    def read(self, name: str, text: str) -> Any:
        """Parse `text` as the value of the field `name`, or raise OptionError."""
        try:
            return self.check(name, self.parse(text))
        except LoadError as error:
            raise OptionError(f"{name}: {error}") from None
        except OptionError:
            raise
        except ValueError:
            raise OptionError(f"{name}: {text!r} is not allowed; it must be {self.allowed}") from None


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        # Python converts at most 4,300 digits to text; hexadecimal digits in a TOML file can exceed this limit.
        return "a number that is too long to show"


def require(condition: bool) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError


MOST_COUNT: Final = 10**9
"""Maximum of counts; a product of two counts does not exceed 64 bits, which the processes' shared table needs."""

MOST_BYTES: Final = 10**15
"""Maximum of sizes in bytes."""


def integer(minimum: int, maximum: int = MOST_COUNT) -> Kind:
    """Return a `Kind` for whole numbers from `minimum` to `maximum`, which must be a power of ten."""

    def convert(value: Any) -> int:
        require(isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum)
        return int(value)

    allowed = f"a whole number of at least {minimum} (1e{len(str(maximum)) - 1} at most)"
    return Kind(allowed, "NUMBER", convert, int)


_MOST_SECONDS = 1e9
"""Maximum number of seconds, about thirty years; it is below the limits of Python's and the kernel's timers."""


def seconds(*, positive: bool) -> Kind:
    """Return a `Kind` for durations in seconds, within a timer's range: above 0 if `positive`, otherwise 0 or more."""

    def convert(value: Any) -> float:
        require(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
        require((value > 0 if positive else value >= 0) and value <= _MOST_SECONDS)
        return float(value)

    allowed = f"a number of seconds, {'above 0' if positive else '0 or more'} (1e9 at most)"
    return Kind(allowed, "SECONDS", convert, float)


def wait(*, positive: bool = False) -> Kind:
    """Return a `Kind` for maximum waits: a number of seconds, or off, which is stored as infinity.

    The number must be above 0 if `positive`; otherwise, 0 is also allowed.
    """
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
    """Return a `Kind` for booleans."""
    words = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

    def convert(value: Any) -> bool:
        require(isinstance(value, bool))
        return bool(value)

    def parse(text: str) -> bool:
        require(text.lower() in words)
        return words[text.lower()]

    return Kind("true or false", "true|false", convert, parse)


def choice(*choices: str) -> Kind:
    """Return a `Kind` that allows only the words in `choices`."""

    def convert(value: Any) -> str:
        require(value in choices)
        return str(value)

    return Kind(f"one of {', '.join(choices)}", "|".join(choices), convert, str, textual=True)


def function() -> Kind:
    """Return a `Kind` for callables; in text, a callable is written MODULE:NAME."""

    def convert(value: Any) -> Callable[..., Any]:
        require(callable(value))
        return value  # type: ignore[no-any-return]  # callable() has just checked it

    return Kind("a callable (in text: MODULE:NAME)", "MODULE:NAME", convert, load_callable, textual=True)


def limiter(*names: str) -> Kind:
    """Return a `Kind` for limiters: one of `names`, or a callable; in text, a callable is written MODULE:NAME."""

    def convert(value: Any) -> Any:
        require(callable(value) or value in names)
        return value

    def parse(text: str) -> Any:
        return load_callable(text) if ":" in text else text

    allowed = f"one of {', '.join(names)}, or a callable (in text: MODULE:NAME)"
    return Kind(allowed, "NAME|MODULE:NAME", convert, parse, textual=True)


def client_key() -> Kind:
    """Return a `Kind` for client keys: address, off, the name of a header field, or a function."""

    def convert(value: Any) -> Any:
        require(callable(value) or (isinstance(value, str) and _TOKEN(value) is not None))
        return value

    def parse(text: str) -> Any:
        return load_callable(text) if ":" in text else text

    allowed = "address, off, the name of a header field, or a callable (in text: MODULE:NAME)"
    return Kind(allowed, "address|HEADER|off|MODULE:NAME", convert, parse, textual=True)


def header() -> Kind:
    """Return a `Kind` for names of header fields."""

    def convert(value: Any) -> Any:
        require(isinstance(value, str) and _TOKEN(value) is not None)
        return value

    return Kind("the name of a header field", "HEADER", convert, _unchanged, textual=True)


def peers() -> Kind:
    """Return a `Kind` for lists of IP addresses and networks."""
    allowed = "IP addresses, networks such as 10.0.0.0/8, and the word unix, as a list (in text: with commas)"

    def convert(value: Any) -> tuple[str, ...]:
        require(isinstance(value, (list, tuple)))
        return tuple(_peer(entry) for entry in value)

    def parse(text: str) -> list[str]:
        return [entry.strip() for entry in text.split(",")] if text.strip() else []

    return Kind(allowed, "ADDRESS,...", convert, parse, textual=True)


def metrics_target() -> Kind:
    """Return a `Kind` for receivers of metrics."""
    allowed = "otlp, statsd://HOST:PORT or dogstatsd://HOST:PORT"

    def convert(value: Any) -> str:
        require(isinstance(value, str))
        if value != "otlp":
            match = _STATSD(value)
            require(match is not None and 0 < int(match[1]) <= _MOST_PORT)
        return str(value)

    return Kind(allowed, "TARGET", convert, str, textual=True)


def path_prefix() -> Kind:
    """Return a `Kind` for path prefixes, in the form that a proxy may send in X-Forwarded-Prefix."""

    def convert(value: Any) -> str:
        require(isinstance(value, str) and _PREFIX(value) is not None)
        return str(value)

    allowed = "a path such as /app, of letters, digits and -._~, without a slash at its end"
    return Kind(allowed, "PATH", convert, str, textual=True)


def _peer(entry: Any) -> str:
    if entry == "unix":
        return "unix"
    try:
        # Reject an address with a zone (fe80::1%eth0), because the comparison with the peer's address would ignore the
        # zone.
        require(isinstance(entry, str) and "%" not in entry)
        interface = ip_interface(entry)
    except ValueError:
        allowed = "an IP address, a network such as 10.0.0.0/8, or the word unix"
        raise BadEntry(f"{entry!r} is not allowed; each entry must be {allowed}") from None
    if interface.ip != interface.network.network_address:
        raise BadEntry(f"{entry!r} has bits beyond its prefix; write {interface.network} or {interface.ip}")
    return str(entry)
