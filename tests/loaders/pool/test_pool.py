"""The worker pool: nothing is lost, whatever happens to a worker."""

import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdual.errors import FailureError
from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.pool.channel import Channel, ChannelClosed
from fastdual.loaders.pool.memory import SharedMemory, SharedRows
from tests.loaders.processes import alive, wait_until_dead, worker_pids

RUN = "tests.loaders.pool.tasks:run"


@pytest.fixture(params=[False, True], ids=["", "ahead"])
def send_ahead(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def pool(send_ahead: bool) -> Iterator[ProcessPool]:
    with ProcessPool(RUN, num_workers=2, timeout_seconds=20, send_ahead=send_ahead) as pool:
        yield pool


def test_imap_yields_in_the_order_of_the_tasks(pool: ProcessPool) -> None:
    tasks = [("sleep", 0.2), *(("square", number) for number in range(50))]
    results = list(pool.imap(tasks, window=8))
    assert [task for task, _ in results] == tasks
    assert [result for _, result in results[1:]] == [number**2 for number in range(50)]


def test_results_can_be_asked_for_in_any_order(pool: ProcessPool) -> None:
    tickets = [pool.submit(("square", number)) for number in range(10)]
    assert [pool.result(ticket) for ticket in reversed(tickets)] == [
        number**2 for number in reversed(range(10))
    ]


def test_the_time_that_workers_wait_for_tasks_is_counted(pool: ProcessPool) -> None:
    pool.result(pool.submit(("square", 1)))  # a worker has started
    before = pool.idle_seconds
    for task in (("sleep", 0.3), ("square", 1)):
        pool.result(pool.submit(task))
    busy = pool.idle_seconds - before
    time.sleep(0.3)
    tickets = [pool.submit(("square", number)) for number in range(20)]
    assert all(pool.result(ticket) is not None for ticket in tickets)
    assert pool.idle_seconds - before > busy + 0.25


def test_an_exception_is_reported_at_once_and_keeps_the_worker(pool: ProcessPool) -> None:
    assert pool.result(pool.submit(("square", 2))) == 4
    pids = worker_pids()
    failure = pool.result(pool.submit(("raise", "no such stream")))
    assert failure == TaskFailure("ValueError: no such stream", "error")
    assert worker_pids() == pids


def test_a_result_that_cannot_be_sent_is_an_error(pool: ProcessPool) -> None:
    failure = pool.result(pool.submit(("lambda", 1)))
    assert isinstance(failure, TaskFailure) and failure.kind == "error"
    assert pool.result(pool.submit(("square", 3))) == 9


@pytest.mark.parametrize(
    ("task", "cause"),
    [(("signal", signal.SIGSEGV), "SIGSEGV"), (("exit", 3), "exit status 3")],
)
def test_a_task_that_kills_its_worker_is_named_and_costs_no_other(
    pool: ProcessPool, task: tuple[str, int], cause: str
) -> None:
    tickets = [pool.submit(("square", 5)), pool.submit(task), pool.submit(("square", 6))]
    assert pool.result(tickets[0]) == 25
    failure = pool.result(tickets[1])
    assert failure == TaskFailure(f"crashed its worker process ({cause})", "crash")
    assert pool.result(tickets[2]) == 36


def test_a_worker_has_its_next_task_before_it_is_done(pool: ProcessPool, send_ahead: bool) -> None:
    ready: set[object] = set()
    while len(ready) < 2:
        tickets = [pool.submit(("sleep", 0.2)) for _ in range(4)]
        ready.update(pool.result(ticket) for ticket in tickets)
    long, short, next_one, huge, last = (
        pool.submit(task)
        for task in (
            ("sleep", 3.0),
            ("sleep", 1.5),
            ("sleep", 0),
            ("echo", b"x" * 10_000_000),  # no socket holds it: it must not be sent ahead
            ("sleep", 0),
        )
    )
    busy, idle = pool.result(long), pool.result(short)
    assert busy != idle
    assert pool.result(next_one) == (busy if send_ahead else idle)
    assert len(pool.result(huge)) == 10_000_000
    assert pool.result(last) in (busy, idle)


@pytest.mark.timeout(60)
def test_a_worker_that_is_dead_when_it_is_sent_a_task_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        pool.result(pool.submit(("square", 1)))
        send = Channel.send

        def send_to_a_dead_one(*arguments: Any, **options: Any) -> None:
            monkeypatch.setattr(Channel, "send", send)
            (pid,) = worker_pids()
            os.kill(pid, signal.SIGKILL)
            raise ChannelClosed("broken pipe")

        monkeypatch.setattr(Channel, "send", send_to_a_dead_one)
        assert pool.result(pool.submit(("square", 7))) == 49


def test_a_crash_or_a_hang_is_not_the_fault_of_the_tasks_behind_it() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=2, send_ahead=True) as pool:
        fatal = [("signal", signal.SIGSEGV), ("spin", 600)]
        tickets = [pool.submit(task) for task in (*fatal, ("square", 3), *fatal, ("square", 4))]
        results = [pool.result(ticket) for ticket in tickets]
    crash = TaskFailure("crashed its worker process (SIGSEGV)", "crash")
    hang = TaskFailure("took longer than 2 s", "timeout")
    assert results == [crash, hang, 9, crash, hang, 16]


def test_a_crash_is_tried_once_more(tmp_path: Path) -> None:
    with ProcessPool(
        "tests.loaders.pool.tasks:crash_once",
        num_workers=2,
        timeout_seconds=20,
        setup=(str(tmp_path),),
    ) as pool:
        names = ["a", "b", "c"]
        assert list(pool.imap(names, window=3)) == [(name, name) for name in names]


def test_a_hang_ends_at_the_time_limit(send_ahead: bool) -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=0.5, send_ahead=send_ahead) as quick:
        quick.result(quick.submit(("square", 1)))
        pids = worker_pids()
        tickets = [quick.submit(("spin", 600)), quick.submit(("square", 7))]
        started = time.monotonic()
        assert quick.result(tickets[0]) == TaskFailure("took longer than 0.5 s", "timeout")
        assert time.monotonic() - started < 10
        assert quick.result(tickets[1]) == 49
        assert not alive(pids[0])


def test_killing_random_workers_loses_nothing(pool: ProcessPool) -> None:
    stop = threading.Event()
    rng = random.Random(0)
    kills = 0

    def kill_now_and_then() -> None:
        nonlocal kills
        while not stop.wait(rng.uniform(0.3, 0.6)):
            pids = worker_pids()
            if pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
                kills += 1

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    shared = SharedRows(memory := SharedMemory(6 * 300_000), memory.array((6, 300_000), "|u1"))
    pending: deque[tuple[int, int]] = deque()
    given = count = 0
    while given < 200 or (kills < 3 and given < 20_000) or pending:
        if len(pending) < 6 and (given < 200 or kills < 3):
            if given % 2:
                ticket = pool.submit(("fill", given % 256), out=shared.row(given % 6))
            else:
                ticket = pool.submit(("sleep", 0.02))
            pending.append((given, ticket))
            given += 1
            continue
        number, ticket = pending.popleft()
        assert not isinstance(pool.result(ticket), TaskFailure)
        pool.release(ticket)
        if number % 2:
            assert (shared.values[number % 6] == number % 256).all()
        count += 1
    stop.set()
    killer.join()
    assert count == given
    assert kills >= 3


def test_a_released_pending_task_is_dropped() -> None:
    with ProcessPool(RUN, num_workers=2, timeout_seconds=20) as pool:
        running = [pool.submit(("sleep", 0.3)) for _ in range(2)]
        dropped = [pool.submit(("sleep", 600)) for _ in range(5)]
        for ticket in dropped:
            pool.release(ticket)
        assert pool.result(pool.submit(("square", 8))) == 64
        for ticket in running:
            assert isinstance(pool.result(ticket), int)


def test_closing_kills_the_workers_and_frees_a_waiting_caller() -> None:
    pool = ProcessPool(RUN, num_workers=2, timeout_seconds=60)
    pool.result(pool.submit(("square", 1)))
    ticket = pool.submit(("sleep", 600))
    pids = worker_pids()
    threading.Timer(0.3, pool.close).start()
    with pytest.raises(FailureError, match="closed"):
        pool.result(ticket)
    wait_until_dead(pids)
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.submit(("square", 1))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_workers"):
        ProcessPool(RUN, num_workers=0, timeout_seconds=1)


def test_workers_killed_while_they_start_are_started_again() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        ticket = pool.submit(("square", 7))
        killed: set[int] = set()
        deadline = time.monotonic() + 60
        while len(killed) < 6:  # more often than a worker that fails by itself is started
            assert time.monotonic() < deadline, "workers are not started any more"
            for pid in set(worker_pids()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        assert pool.result(ticket) == 49
