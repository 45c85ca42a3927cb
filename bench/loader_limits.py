"""What the workers of a bare decode run; it imports no more than the loader's own workers do."""

from fastdual.loaders.decode import ReadTask, read_task


def decode_only(task: ReadTask) -> int:
    """Decode and scale the wanted frames and hand nothing over; returns how many there were."""
    frames = read_task(task)
    assert not isinstance(frames, int)
    return len(frames)
