"""Observation of a balancer: counters, snapshots, metrics, and the admin pages that show them."""
