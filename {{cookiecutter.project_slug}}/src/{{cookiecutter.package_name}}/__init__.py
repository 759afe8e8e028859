"""A machine learning project whose whole loop runs anywhere."""
