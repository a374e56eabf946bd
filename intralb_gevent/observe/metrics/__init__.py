"""The metrics of a process and of a site: each metric is declared once, and is read when a client requests it.

The Prometheus text, the reference page, the OTLP export and the statsd export are all made from the declarations.
"""
