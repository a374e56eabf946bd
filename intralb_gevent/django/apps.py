"""The name and label of the Django app, which Django reads for an entry in INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["IntraLBConfig"]


class IntraLBConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Configures the Django app. The default label would be "django", which another app may have."""

    name = "intralb_gevent.django"
    label = "intralb_gevent"
    verbose_name = "IntraLB for gevent"
