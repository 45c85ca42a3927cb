"""What `--verify` of `fastdual index` and `fastdual pack` does."""

from __future__ import annotations

from fastdual.commands.shared.progress import video_progress
from fastdual.console import say
from fastdual.errors import FailureError
from fastdual.loaders.index import VideoIndex, check_files, verify_index


def verify_videos(index: VideoIndex, what: str, *, workers: int | None, timeout: float) -> None:
    """Decode every video of an index or pack again; print what differs.

    Args:
        index: The videos.
        what: What was opened, for messages: "index" or "pack".
        workers: Worker processes; None takes one per CPU.
        timeout: Seconds for each video.

    Raises:
        FailureError: A video differs.
    """
    check_files(index)
    with video_progress("verifying") as progress:
        wrong = verify_index(index, num_workers=workers, timeout_seconds=timeout, progress=progress)
    for path, reason in wrong:
        say(f"{path}: {reason}")
    if wrong:
        raise FailureError(f"{len(wrong)} of {len(index)} videos are not as the {what} says")
    say(f"verified    {len(index):,} videos decode to what the {what} says")
