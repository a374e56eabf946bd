"""The worker class for gunicorn: `gunicorn -k intralb_gevent.gunicorn.Worker myapp:app`.

gunicorn's arbiter, which is not monkey-patched, imports this package. So only `serving` and `requests`, which the
worker imports after patching, import the balancer and the server.
"""

from __future__ import annotations

from .worker import Worker

__all__ = ["Worker"]
