"""Decoding of videos with PyAV: opened safely, numbered in one way, the wanted frames alone."""
