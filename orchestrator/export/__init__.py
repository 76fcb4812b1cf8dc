"""Exports: what becomes of the chosen candidate, one file for each target."""
