"""What the name of a split stands for: one split, or both halves of an official one."""

from collections.abc import Container, Sequence


def named_splits(
    known: Container[str], name: str, sides: Sequence[str] = ("train", "test")
) -> list[str]:
    """Return the splits that a name stands for.

    Args:
        known: Names of the splits that there are.
        name: A split, as `ucf101-1/test`, or what comes before the slash, for both halves.
        sides: The halves that are wanted.

    Returns:
        At least one name; one that is unknown is returned as it is, for its reader to refuse.
    """
    halves = [f"{name}/{side}" for side in sides if f"{name}/{side}" in known]
    return [name] if name in known or not halves else halves
