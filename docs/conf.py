"""Configuration of the documentation site. Build it with `tox -e docs`; the pages are in `.tox/docs/tmp/site`."""

import re
from typing import Any

import intralb_gevent

project = "intralb_gevent"
author = "the intralb_gevent developers"
copyright = f"2026, {author}"
release = version = intralb_gevent.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

# Links to headings use the same anchors as GitHub, so that the pages can be read in both places.
myst_heading_anchors = 4
# Attributes set the width of pictures.
myst_enable_extensions = ["attrs_block"]

# The docstrings of the package mark names with single backquotes.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Application", "Environ", "Exchange", "StartResponse")}

html_theme = "furo"
html_title = f"intralb_gevent {release}"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["wide-tables.css"]
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"


def name_aliases(app: Any, what: str, name: str, item: Any, options: Any, signature: str | None, returned: str | None):
    """Show the name of a type alias within another type, instead of the object that stands for it."""

    def named(text: str | None) -> str | None:
        return text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)

    return named(signature), named(returned)


def setup(app: Any) -> None:
    """Add the changes to signatures."""
    app.connect("autodoc-process-signature", name_aliases)
