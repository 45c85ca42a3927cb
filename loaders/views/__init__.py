"""From decoded frames to augmented views: in numpy on a CPU, as a DALI graph on a GPU."""
