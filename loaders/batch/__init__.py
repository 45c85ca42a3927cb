"""From the order of the videos to finished batches: decoding, replacing bad videos, assembling."""
