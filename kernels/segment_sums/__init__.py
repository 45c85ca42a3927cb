"""Sums over the segments of two views."""
