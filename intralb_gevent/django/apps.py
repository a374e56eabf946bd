"""The name and label of the Django app, which Django reads for an entry in INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["IntraLBConfig"]


class IntraLBConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Configures the Django app; the default label, "django", could collide with the label of another app."""

    name = "intralb_gevent.django"
    label = "intralb_gevent"
    verbose_name = "IntraLB for gevent"
