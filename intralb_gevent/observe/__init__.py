"""Observation of a balancer without side effects: counters, snapshots, and the admin pages that show them."""
