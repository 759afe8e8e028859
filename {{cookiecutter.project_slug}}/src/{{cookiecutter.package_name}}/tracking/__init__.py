"""Runs, versions and where they come from."""
