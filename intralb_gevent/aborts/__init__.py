"""Aborts request handlers, at points where an abort leaves no operation half done."""
