"""The supervisor of several serving processes. The supervisor and its processes communicate through systemd's
protocols.

No module of this package imports gevent, and the supervisor never imports the application.
"""
