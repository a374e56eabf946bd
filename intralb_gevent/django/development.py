"""The WSGI application of a Django project in development; like `runserver`, the application serves static files."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import get_internal_wsgi_application

__all__ = ["application"]


def application() -> Any:
    """Return the WSGI application that the settings name; with DEBUG, it also answers requests for static files."""
    project = get_internal_wsgi_application()
    if settings.DEBUG and "django.contrib.staticfiles" in settings.INSTALLED_APPS:
        return StaticFilesHandler(project)
    return project
