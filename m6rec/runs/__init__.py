"""Notebooks executed and measured."""
