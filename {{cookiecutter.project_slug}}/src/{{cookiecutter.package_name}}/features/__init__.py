"""From the sources to feature tables."""
