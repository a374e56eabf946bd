"""The configuration of the Django app."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["IntraLBConfig"]


class IntraLBConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """The Django app, whose label does not collide with that of another package named django."""

    name = "intralb_gevent.django"
    label = "intralb_gevent"
    verbose_name = "IntraLB for gevent"
