"""Replaces serving processes again and again under clients that never repeat a request."""
