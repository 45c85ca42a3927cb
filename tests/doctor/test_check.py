"""A check that fails, and one that itself breaks."""

from fastdual.doctor.check import Check, run_check


def test_a_fault_is_what_is_wrong_or_missing_although_required() -> None:
    assert Check("x", "wrong", "").failed
    assert Check("x", "unavailable", "", required=True).failed
    assert not Check("x", "unavailable", "").failed
    assert not Check("x", "ok", "", required=True).failed


def test_a_check_that_breaks_is_wrong() -> None:
    def breaks() -> tuple[str, str]:
        raise OSError("no library\nsecond line")

    check = run_check("x", breaks, required=True)  # type: ignore[arg-type]
    assert check == Check("x", "wrong", "OSError: no library", required=True)
