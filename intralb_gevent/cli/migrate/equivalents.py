"""The equivalents of another server's settings, and the text of the settings file that contains the equivalents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...config import sources
from ...errors import OptionError

__all__ = [
    "ONE_AT_A_TIME",
    "Equivalent",
    "Translation",
    "address",
    "is_true",
    "renamed",
    "settings_file",
    "slots",
    "translated",
    "verification",
    "without",
]

Translation = Callable[[str, Any], "list[Equivalent]"]
"""Function that receives the name and value of another server's setting, and returns the equivalent settings."""

ONE_AT_A_TIME: Final = (
    "each process ran one request at a time; this server runs many at the same time, so the application must be "
    "thread-safe; otherwise set max_workers and max_concurrent_per_router to 1"
)
_WIDTH: Final = 40


@dataclass(frozen=True)
class Equivalent:
    """A setting of another server, and the equivalent setting of this server."""

    was: str
    """The other server's setting, as text, such as `workers = 4`."""
    name: str = ""
    """Name of the equivalent setting; '' if there is no equivalent."""
    value: Any = None
    note: str = ""
    """Reason why there is no equivalent, or the difference between the two settings."""


def renamed(name: str, note: str = "", convert: Callable[[Any], Any] = lambda value: value) -> Translation:
    """Return a translation to the setting `name`; `convert` converts the value."""

    def translate(was: str, value: Any) -> list[Equivalent]:
        if value is None or value == "":
            return []
        return [Equivalent(f"{was} = {value}", name, convert(value), note)]

    return translate


def without(note: str) -> Translation:
    """Return a translation of a setting that has no equivalent; `note` says what to do instead."""
    return lambda was, value: [Equivalent(was if callable(value) else f"{was} = {value}", note=note)]


def slots(was: str, value: Any) -> list[Equivalent]:
    """Translate a number of concurrent requests to workers and slots."""
    number = int(value)
    if number < 1:
        return [Equivalent(f"{was} = {value}", note="the number of slots is always limited; the default is 1,000")]
    workers = max(1, -(-number // 100))
    text = f"{was} = {value}"
    note = f"{workers} x {-(-number // workers)} requests run at the same time in each process"
    return [
        Equivalent(text, "max_workers", workers, note),
        Equivalent(text, "max_concurrent_per_router", -(-number // workers)),
    ]


def verification(was: str, value: Any) -> list[Equivalent]:
    """Translate the number that `ssl.CERT_NONE`, `ssl.CERT_OPTIONAL` or `ssl.CERT_REQUIRED` stands for."""
    number = int(value)
    if number == 1:
        return [Equivalent(f"{was} = {number}", "cert_reqs", "optional")]
    note = "with ca_certs, each client must have a certificate" if number else "leave out ca_certs"
    return [Equivalent(f"{was} = {number}", note=note)]


def address(was: str, value: Any) -> list[Equivalent]:
    """Translate one or several addresses."""
    entries = value if isinstance(value, (list, tuple)) else [part.strip() for part in str(value).split(",")]
    return [Equivalent(f"{was} = {value}", "bind", [_address(str(entry)) for entry in entries])]


def _address(text: str) -> str:
    text = text.removeprefix("tcp://").removeprefix("http://").replace("unix://", "unix:").replace("fd://", "fd:")
    if text.startswith("/"):
        return f"unix:{text}"
    return text if ":" in text or text.isdecimal() else f"{text}:8000"


def is_true(value: Any) -> bool:
    """Return whether a value means true in an ini file or on a command line."""
    return str(value).lower() in ("true", "1", "yes", "on")


def translated(settings: Iterable[tuple[str, Any]], known: Mapping[str, Translation]) -> list[Equivalent]:
    """Return the equivalents of another server's settings; `settings` contains pairs of name and value."""
    return [each for name, value in settings for each in _translate(name, value, known)]


def _translate(name: str, value: Any, known: Mapping[str, Translation]) -> list[Equivalent]:
    translation = known.get(name)
    if translation is None:
        return [
            Equivalent(
                f"{name} = {value}", note="not known to this command; search the settings page for an equivalent"
            )
        ]
    try:
        return translation(name, value)
    except (TypeError, ValueError):
        return [Equivalent(f"{name} = {value}", note="this value was not understood")]


def settings_file(source: str, equivalents: Sequence[Equivalent]) -> str:
    """Return the text of a settings file, in which settings without an equivalent are comments."""
    found = _merged(each for each in equivalents if each.name)
    rest = [each for each in equivalents if not each.name]
    lines = [f"# Equals {source}", "# Save this as intralb.toml, and start with: intralb-gevent serve", ""]
    lines += [line for each in found for line in _setting(each)]
    if rest:
        lines += ["", "# Without an equivalent:", *(f"# {each.was}: {each.note}" for each in rest)]
    return "\n".join(lines) + "\n"


def _merged(found: Iterable[Equivalent]) -> Iterator[Equivalent]:
    """Yield one equivalent for each setting: join the values if they are lists; otherwise, use the last value."""
    merged: dict[str, Equivalent] = {}
    for each in found:
        before = merged.get(each.name)
        if before is not None and isinstance(each.value, list):
            each = Equivalent(f"{before.was}, {each.was}", each.name, [*before.value, *each.value], each.note)
        merged[each.name] = each
    yield from merged.values()


def _setting(each: Equivalent) -> Iterator[str]:
    declaration = next((known for known in sources.all_declarations() if known.name == each.name), None)
    if declaration is None:
        yield f"# {each.was}: there is no setting {each.name} in this version"
        return
    try:
        if isinstance(each.value, str) and declaration.kind.textual:
            declaration.kind.read(each.name, each.value)
        else:
            declaration.check(each.value)
    except OptionError as error:
        yield f"# {each.was}: {error}"
        return
    line = f"{each.name} = {sources.toml(each.value)}"
    yield f"{line:{_WIDTH}}  # {each.was}{f'; {each.note}' if each.note else ''}"
