"""Notebooks executed and swept, results, and the report."""
