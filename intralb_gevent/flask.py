"""The command `flask intralb`, which serves the project's application.

The command replaces the process by `intralb-gevent serve`, because Flask's command has already imported modules that
must be imported after monkey-patching.
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

    FLAGS are those of `intralb-gevent serve`. With --debug, the server restarts when a file changes.
    """
    named = context.ensure_object(ScriptInfo).app_import_path
    # The process that serves reads FLASK_APP as Flask does.
    variables = {} if named is None else {"FLASK_APP": named}
    serve_instead(flags, reloads=get_debug_flag(), variables=variables)
