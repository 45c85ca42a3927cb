"""Evaluation of a network: features, retrieval, probe, neighbours, pretext task, results."""
