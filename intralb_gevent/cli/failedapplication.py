"""A WSGI application that shows an error of the user's application, while `serve --reload` waits for a change."""

from __future__ import annotations

import html
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..errors import LoadError
from .ownframes import own_frames

__all__ = ["FailedApplication"]

_PAGE: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The application cannot be imported</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
pre {{ background: color-mix(in srgb, currentcolor 8%, transparent); overflow: auto; padding: 1rem }}
strong {{ color: #c22 }}
</style></head><body>
<h1>The application cannot be imported</h1>
<p><strong>{error}</strong></p>
{details}
<p>Change a file, and then load this page again.</p>
</body></html>
"""
_ELSEWHERE: Final = "<p>The traceback is shown here only if no other machine can connect to the server.</p>"


class FailedApplication:
    """Answers each request with status 500 and the reason why the application cannot be imported."""

    def __init__(self, error: LoadError, shows_traceback: bool) -> None:
        """Build the page; show the traceback only if `shows_traceback`, because a traceback contains source code."""
        self._error = error
        what = str(error) if shows_traceback else "See the log of the server."
        details = _details(error) if shows_traceback else _ELSEWHERE
        self._page = _PAGE.format(error=html.escape(what), details=details).encode()

    def __repr__(self) -> str:
        return f"<FailedApplication {str(self._error)!r}>"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer one request, as a WSGI application."""
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(self._page)))]
        start_response("500 Internal Server Error", [*headers, ("Cache-Control", "no-store")])
        return [self._page]


def _details(error: LoadError) -> str:
    frames = "\n".join(own_frames(error.__cause__))
    whole = "".join(traceback.format_exception(error.__cause__ or error))
    shown = f"<pre>{html.escape(frames)}</pre>\n" if frames else ""
    kept = "" if frames else " open"
    return f"{shown}<details{kept}><summary>Whole traceback</summary>\n<pre>{html.escape(whole)}</pre></details>"
