"""The management command `runintralb`, which serves the project with this package's server.

The command runs Django's checks, as `runserver` does. The command then replaces its process with `intralb-gevent
serve`, because `manage.py` has already imported modules that must be imported after monkey-patching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser, handle_default_options

from ....replacing import serve_instead

__all__ = ["Command"]

_DEVELOPMENT = "intralb_gevent.django.development:application()"


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Runs Django's checks, and then serves the project."""

    help = (
        "Serves this project with intralb-gevent. The command accepts the flags of `intralb-gevent serve`; a first "
        "argument without dashes is the address, as for runserver. With DEBUG, the server restarts when a file "
        "changes, and serves static files."
    )
    requires_system_checks: Sequence[str] = []
    flags: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Parse Django's own flags, and store all other flags for `intralb-gevent serve`."""
        parser = self.create_parser(argv[0], argv[1])
        known, self.flags = parser.parse_known_args(argv[2:])
        handle_default_options(known)
        self.execute(**vars(known))

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare `--noreload`, which `runserver` has, too."""
        parser.add_argument("--noreload", action="store_true", help="do not restart when a file changes")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run Django's checks, and replace this process with the server."""
        self.check(display_num_errors=True)
        self.check_migrations()
        flags = list(self.flags)
        if flags and not flags[0].startswith("-"):
            flags[0:1] = ["--bind", flags[0]]
        serve_instead(flags, settings.DEBUG and not options["noreload"], self._application())

    def _application(self) -> str:
        static = "django.contrib.staticfiles" in settings.INSTALLED_APPS
        if settings.WSGI_APPLICATION is None or (settings.DEBUG and static):
            return _DEVELOPMENT
        module, _, name = settings.WSGI_APPLICATION.rpartition(".")
        return f"{module}:{name}"
