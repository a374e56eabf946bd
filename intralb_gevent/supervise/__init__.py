"""The supervisor of several serving processes, and systemd's protocols, which it and its processes use to communicate.

No module of this package imports gevent, and the supervisor never imports the application.
"""
