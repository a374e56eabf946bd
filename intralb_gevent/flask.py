"""The command `flask intralb`, which serves the project's application.

The command replaces its process with `intralb-gevent serve`, because Flask's command line has already imported modules
that must be imported after monkey-patching.
"""

from __future__ import annotations

import click
from flask.cli import ScriptInfo
from flask.helpers import get_debug_flag

from .replacing import serve_instead

__all__ = ["command"]


@click.command(
    "intralb",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    short_help="Serve the application with intralb-gevent.",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, flags: tuple[str, ...]) -> None:
    """Serve this project's application with intralb-gevent.

    FLAGS are the flags of `intralb-gevent serve`. With `flask --debug`, the server restarts when a file changes.
    """
    named = context.ensure_object(ScriptInfo).app_import_path
    # Pass Flask's `--app` in FLASK_APP, which `intralb-gevent serve` reads as Flask does.
    variables = {} if named is None else {"FLASK_APP": named}
    serve_instead(flags, reloads=get_debug_flag(), variables=variables)
