"""The worker class for gunicorn: `gunicorn -k intralb_gevent.gunicorn.Worker myapp:app`.

gunicorn's arbiter imports this package, and the arbiter is not monkey-patched. So the modules that import the balancer
and the server are imported only by the worker, after it has monkey-patched its process.
"""

from __future__ import annotations

from .worker import Worker

__all__ = ["Worker"]
