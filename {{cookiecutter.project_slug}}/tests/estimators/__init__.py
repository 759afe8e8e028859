"""Estimators that a problem may bring: each is one file, as a version carries it."""
