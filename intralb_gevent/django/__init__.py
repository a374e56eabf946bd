"""The Django app with the management command `runintralb`: add "intralb_gevent.django" to INSTALLED_APPS.

This package does not import gevent, because `manage.py` imports it in a process that is not monkey-patched.
"""
