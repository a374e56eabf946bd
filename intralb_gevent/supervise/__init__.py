"""The supervisor of several serving processes, and the parts of systemd's protocol that it shares with them.

No module of this package imports gevent, and the supervisor never imports the application.
"""
