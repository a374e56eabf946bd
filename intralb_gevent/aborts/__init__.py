"""Aborts running handlers: the watchdog detects late handlers, and other modules find where an abort is safe."""
