"""Evaluation of a pretrained backbone: features, retrieval, the pretext task on held-out videos."""
