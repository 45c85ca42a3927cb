"""From encoded videos to augmented clips."""
