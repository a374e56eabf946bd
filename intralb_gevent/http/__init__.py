"""Sockets: connections read in the hub, requests made of them, responses written back, the server around them.

Knows the pool only as "submit this job".
"""
