"""From prepared tables to feature tables."""
