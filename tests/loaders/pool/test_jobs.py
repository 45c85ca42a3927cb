"""Jobs: the order in which they are taken, and who waits for them."""

import threading

import pytest

from fastdual.errors import FailureError
from fastdual.loaders.pool.jobs import Job, Jobs, TaskFailure


def add(jobs: Jobs, *tasks: bytes) -> list[int]:
    return [jobs.add(task, None) for task in tasks]


def take(jobs: Jobs, most_bytes: int | None = None) -> Job:
    job = jobs.take(most_bytes)
    assert job is not None
    return job


def test_jobs_are_taken_in_order_and_those_put_back_first() -> None:
    jobs = Jobs()
    add(jobs, b"a", b"b", b"c", b"d")
    taken = [take(jobs) for _ in range(3)]
    jobs.put_back(taken[1:])
    assert [take(jobs).task for _ in range(3)] == [b"b", b"c", b"d"]
    assert jobs.take() is None and len(jobs) == 0


def test_a_released_job_is_not_taken_and_a_long_one_waits() -> None:
    jobs = Jobs()
    tickets = add(jobs, b"a", b"long")
    jobs.release(tickets[0])
    assert jobs.take(3) is None
    assert take(jobs, 4).task == b"long"


def test_who_waits_for_jobs_is_told_when_few_are_queued() -> None:
    jobs = Jobs()
    tickets = add(jobs, b"a", b"b", b"c")
    first = take(jobs)
    told: list[bool] = []
    waiting = threading.Thread(target=lambda: told.append(jobs.wait_for_room(tickets[:1], 2)))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive() and not told  # two are queued
    take(jobs)
    waiting.join(10)
    assert told == [True]
    jobs.finish(first, 1)
    assert jobs.wait_for_room(tickets[:1], 2) is False  # the result is there
    jobs.stop("broken")
    assert jobs.wait_for_room(tickets[1:], 2) is False  # and here none will come


def test_a_result_is_kept_until_it_is_released() -> None:
    jobs = Jobs()
    (ticket,) = add(jobs, b"a")
    job = take(jobs)
    threading.Timer(0.1, jobs.finish, (job, 5)).start()
    assert jobs.wait(ticket) == jobs.wait(ticket) == 5
    jobs.release(ticket)
    jobs.release(ticket)
    with pytest.raises(KeyError):
        jobs.wait(ticket)


def test_a_job_that_is_released_while_it_runs_leaves_no_result() -> None:
    jobs = Jobs()
    (ticket,) = add(jobs, b"a")
    job = take(jobs)
    jobs.release(ticket)
    jobs.finish(job, TaskFailure("late", "crash"))
    assert job.result is None and not job.done


def test_nobody_waits_for_a_pool_that_is_broken_or_closed() -> None:
    jobs = Jobs()
    done, ticket = add(jobs, b"a", b"b")
    jobs.finish(take(jobs), 1)
    threading.Timer(0.1, jobs.stop, ("no worker starts",)).start()
    with pytest.raises(FailureError, match="no worker starts"):
        jobs.wait(ticket)
    assert jobs.wait(done) == 1 and not jobs.closing
    jobs.stop()
    with pytest.raises(FailureError, match="no worker starts"):  # the cause, not the consequence
        jobs.wait(ticket)
    with pytest.raises(ValueError, match="the pool is closed"):
        add(jobs, b"c")
