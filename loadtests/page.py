"""Makes a report of a template and facts, and writes it.

Decides that a report is one file, which needs nothing from elsewhere. It must not know what is reported.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from .charts import draw
from .target import LoadTestError

__all__ = ["Tile", "fill", "write"]


class Tile(NamedTuple):
    """A figure with its name; the style is for one that should be noticed."""

    name: str
    value: str
    style: str = ""


def fill(template: str, **facts: object) -> str:
    """Return the page that the template and the facts make; the template is named as beside this file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["draw"] = lambda chart: Markup(draw(chart))
    return environment.get_template(template).render(facts)


def write(path: pathlib.Path, page: str) -> None:
    """Write the page. Raises `LoadTestError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LoadTestError(
            f"cannot write the report {str(path)!r}: {error.strerror}; choose another --report"
        ) from None
