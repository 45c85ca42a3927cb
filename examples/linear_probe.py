"""scikit-learn on the features of a network: python examples/linear_probe.py NETWORK VIDEOS

NETWORK is a run folder or a file of `fastdual export`; VIDEOS has a folder for each class. What is
measured here is how well a linear classifier on frozen features tells videos that it has not seen.
"""

import sys

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastdual

network, videos = sys.argv[1:]
encoder = fastdual.load(network)
index = fastdual.open_index(videos)
features = encoder.embed(index, clips_per_video=2)
print(f"features {tuple(features.shape)} of {len(index.class_names)} classes")

classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
scores = cross_val_score(classifier, features.numpy(), index.labels, cv=3)
print(f"accuracy {scores.mean():.2f} (chance {1 / len(index.class_names):.2f})")
