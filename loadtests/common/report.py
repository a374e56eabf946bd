"""Helpers of all commands: print progress, format tables and figures, write files, and parse arguments."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from . import LoadTestError

REPORTS: Final = pathlib.Path(__file__).parents[1] / "reports"
_Results = TypeVar("_Results")


def say(text: str) -> None:
    """Print progress to standard error; standard output is for the tables."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def or_failure(store: Callable[[str], object]) -> Iterator[None]:
    """Catch a measurement's `LoadTestError` inside the context; print its message, and pass the message to `store`."""
    try:
        yield
    except (LoadTestError, OSError) as error:
        say(f"  failed: {error}")
        store(str(error))


def write(directory: pathlib.Path, name: str, text: str) -> None:
    """Write a file of the report. Raises `LoadTestError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LoadTestError(f"cannot write to {str(directory)!r}: {error.strerror}; choose another --output") from None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: words in the first and last columns, numbers in the others."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    last = len(widths) - 1
    ruler = ["-" * width if number in (0, last) else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    return "\n".join(_line(cells, widths) for cells in (header, ruler, *rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    middle = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1], strict=True)]
    return f"| {' | '.join([cells[0].ljust(widths[0]), *middle, cells[-1].ljust(widths[-1])])} |"


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """Return the smallest value such that at least `percent` % of the values do not exceed it; None without values."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def about_lines(about: Mapping[str, str]) -> str:
    """Format the conditions of a measurement."""
    return "\n".join(f"- {name}: {value}" for name, value in about.items())


def as_json(results: Any) -> str:
    """Convert results, a dataclass instance, to the JSON that `load` reads."""
    return json.dumps(asdict(results), indent=2) + "\n"


def load(path: pathlib.Path, convert: Callable[[Mapping[str, Any]], _Results]) -> _Results:
    """Read a file that `as_json` has written. Raises `LoadTestError`."""
    try:
        return convert(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LoadTestError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadTestError(f"{str(path)!r} is not a file of results: {error!r}") from None


# Formats of figures.


def rate(value: float) -> str:
    """Format a rate per second."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    """Format a time in milliseconds; None becomes an empty string."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def counted(counts: Mapping[str, int]) -> str:
    """Format each key and its count."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "0"


def as_count(value: float) -> str:
    """Format a count, or a count per second."""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def as_duration(milliseconds: float) -> str:
    """Format a duration, given in milliseconds, in a suitable unit."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 or milliseconds == 0 else f"{milliseconds:.2g} ms"


# Command-line arguments.


def parser(command: str, description: str, epilog: str = "", usage: str = "") -> argparse.ArgumentParser:
    """Return a command's argument parser, which prints the epilog verbatim; `usage` is the text after the command."""
    program = f"python -m loadtests.{command}"
    return argparse.ArgumentParser(
        prog=program,
        usage=f"{program} {usage}" if usage else None,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_choices(parser: argparse.ArgumentParser, flag: str, choices: list[str]) -> None:
    """Add a flag that takes one or more of the choices; the default is all choices."""
    help = f"some of: {', '.join(choices)} [all]"
    parser.add_argument(flag, nargs="+", choices=choices, default=choices, metavar="NAME", help=help)


def add_number(parser: argparse.ArgumentParser, flag: str, default: int, help: str) -> None:
    """Add a flag that takes an integer above 0."""
    parser.add_argument(flag, metavar="NUMBER", type=positive, default=default, help=f"{help} [{default}]")


def add_limited(
    parser: argparse.ArgumentParser, flag: str, kind: Callable[[str], float], limits: tuple[float, float], **more: Any
) -> None:
    """Add a flag that takes numbers between two inclusive limits; a lower limit of 0 is exclusive."""
    least, most = limits

    def limited(text: str) -> float:
        number = kind(text)
        if not (least <= number <= most and number > 0):
            bound = f"from {least:g} to" if least else "above 0 and at most"
            raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be {bound} {most:g}")
        return number

    parser.add_argument(flag, type=limited, **more)


def add_output(parser: argparse.ArgumentParser, files: str, default: pathlib.Path | None = REPORTS) -> None:
    """Add the flag for the output directory."""
    where = f"for {files} [loadtests/reports]"
    parser.add_argument("--output", metavar="DIRECTORY", type=pathlib.Path, default=default, help=where)


def add_files(parser: argparse.ArgumentParser, files: str, stored: str) -> None:
    """Add the flags for the output directory, and for showing an earlier run."""
    add_output(parser, files, None)
    parser.add_argument("--from", dest="stored", metavar="FILE", type=pathlib.Path, help=f"measure nothing: {stored}")


def output_of(parsed: argparse.Namespace) -> pathlib.Path:
    """Return a run's output directory; if an earlier run is shown, the default is that run's directory."""
    return parsed.output or (parsed.stored.parent if parsed.stored else REPORTS)


def split_flags(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the arguments at "--", because argparse would also parse the arguments after it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def positive(text: str) -> int:
    """Return the number. Raises `argparse.ArgumentTypeError` unless it is 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be 1 or more")
    return number
