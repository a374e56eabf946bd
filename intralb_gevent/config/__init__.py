"""Declares the settings, checks each value against the setting's kind, and reads the values from their sources."""
