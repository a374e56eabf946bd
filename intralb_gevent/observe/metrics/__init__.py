"""The metrics of a process and of a site: declared once, and read when they are requested.

The declarations are the source of the Prometheus text, of the reference page, of the OTLP export and of statsd.
"""
