"""Additions to gevent's event loop: dispatch of jobs, timers, non-blocking logs, and measurement of loop delay."""
