"""From the sources to prepared tables."""
