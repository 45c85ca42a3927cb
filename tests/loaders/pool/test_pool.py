"""The worker pool: nothing is lost, whatever happens to a worker."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastdual.errors import FailureError
from fastdual.loaders.pool.channel import ChannelClosed, SharedMemory
from fastdual.loaders.pool.pool import ProcessPool, TaskFailure

RUN = "tests.loaders.pool.tasks:run"


@pytest.fixture(params=[False, True], ids=["", "ahead"])
def send_ahead(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def pool(send_ahead: bool) -> Iterator[ProcessPool]:
    with ProcessPool(RUN, num_workers=2, timeout_seconds=20, send_ahead=send_ahead) as pool:
        yield pool


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {pids}"
        time.sleep(0.02)


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


def test_an_exception_is_reported_at_once_and_keeps_the_worker(pool: ProcessPool) -> None:
    assert pool.result(pool.submit(("square", 2))) == 4
    pids = pool.worker_pids()
    failure = pool.result(pool.submit(("raise", "no such stream")))
    assert failure == TaskFailure("ValueError: no such stream", "error")
    assert pool.worker_pids() == pids


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
def test_a_worker_that_is_dead_when_it_is_sent_a_task_is_noticed() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        pool.result(pool.submit(("square", 1)))
        (worker,) = pool._workers

        def send(*message: object, descriptor: int | None = None) -> None:
            worker.process.kill()
            worker.process.wait()
            raise ChannelClosed("broken pipe")

        worker.channel.send = send  # type: ignore[method-assign]
        assert pool.result(pool.submit(("square", 7))) == 49


def test_a_crash_or_a_hang_is_not_the_fault_of_the_tasks_behind_it() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=2, send_ahead=True) as pool:
        fatal = [("signal", signal.SIGSEGV), ("sleep", 600)]
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
        pids = quick.worker_pids()
        tickets = [quick.submit(("sleep", 600)), quick.submit(("square", 7))]
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
            pids = pool.worker_pids()
            if pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
                kills += 1

    def tasks_until_three_died() -> Iterator[tuple[str, object]]:
        nonlocal given
        while given < 200 or (kills < 3 and given < 20_000):
            yield (("sleep", 0.02), ("array", (given, 100_000)))[given % 2]
            given += 1

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    given = count = 0
    for (verb, value), result in pool.imap(tasks_until_three_died(), window=6):
        assert not isinstance(result, TaskFailure), result
        if verb == "array":
            assert result.shape == (100_000, 3) and (result == value[0] % 256).all()
        count += 1
    stop.set()
    killer.join()
    assert count == given
    assert kills >= 3


def test_arrays_keep_their_values_until_released(pool: ProcessPool) -> None:
    sizes = [0, 1, 400_000, 5, 2_000_000, 350_000, 350_001]
    tickets = [pool.submit(("array", (n, size))) for n, size in enumerate(sizes)]
    views = [pool.result(ticket) for ticket in tickets]
    for number, (view, size) in enumerate(zip(views, sizes, strict=True)):
        assert np.array_equal(view, np.full((size, 3), number, np.uint8))


def mapped_buffers() -> int:
    """Shared buffers that this process maps, without those that wait for the collector."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:fastdual")


def test_released_buffers_are_used_again() -> None:
    others = mapped_buffers()  # of loaders that earlier tests left open
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        for number in range(40):
            ticket = pool.submit(("array", (number, 700_000)))
            assert (pool.result(ticket) == number).all()
            pool.release(ticket)
        maps = Path(f"/proc/{pool.worker_pids()[0]}/maps").read_text()
        assert maps.count("memfd:fastdual") <= 2
        assert mapped_buffers() - others <= 2


def test_buffers_of_a_burst_are_given_back() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        tickets = [pool.submit(("array", (n, 400_000))) for n in range(30)]
        for ticket in tickets:
            pool.result(ticket)
            pool.release(ticket)
        tickets = [pool.submit(("array", (n, 400_000))) for n in range(30)]
        for ticket in tickets:
            pool.result(ticket)
        for ticket in tickets:
            pool.release(ticket)
        pool.result(pool.submit(("square", 1)))
        maps = Path(f"/proc/{pool.worker_pids()[0]}/maps").read_text()
        assert maps.count("memfd:fastdual") <= 5


def test_an_array_of_a_dead_worker_stays_readable() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        view = pool.result(pool.submit(("array", (9, 500_000))))
        os.kill(pool.worker_pids()[0], signal.SIGKILL)
        assert pool.result(pool.submit(("square", 4))) == 16
        assert (view == 9).all()


def memories_of(pid: int) -> int:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sum("memfd:fastdual" in line for line in maps)


def test_a_worker_lets_go_of_memory_that_is_gone() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        kept = SharedMemory(1 << 20)
        for number in range(40):
            memory = SharedMemory(1 << 20)
            for target in (kept, memory):
                ticket = pool.submit(("array", (number, 5)), memory=target, offset=1024)
                assert pool.result(ticket) is None
                pool.release(ticket)
                made = target.floats().view(np.uint8)[1024 : 1024 + 15]
                assert (made == number).all()
            del target, memory, made
            (pid,) = pool.worker_pids()
            assert memories_of(pid) <= 3  # the one kept, the last, the one before


def test_memory_can_be_sent_until_the_interpreter_has_ended() -> None:
    """Loaders are closed at exit, and until then their workers are given memory to write to."""
    code = (
        "import os, weakref\n"
        "from fastdual.loaders.pool.channel import ChannelClosed, SharedMemory\n"
        "class Loader: pass\n"
        "loader, held = Loader(), []\n"
        "weakref.finalize(loader, lambda: print(os.fstat(held[0].descriptor).st_size))\n"
        "held.append(SharedMemory(4096))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("4096\n", "")


def test_a_worker_gives_free_memory_back_to_the_system() -> None:
    """Small blocks between ones that stay: free, but in the heap until it is trimmed."""
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        pool.result(pool.submit(("square", 1)))
        (pid,) = pool.worker_pids()
        assert pool.result(pool.submit(("gaps", 64))) > 64  # freed, and still held
        for _ in pool.imap([("square", number) for number in range(300)], window=4):
            pass
        assert anonymous_mib(pid) < 40


def anonymous_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Pss_Anon:")]
    return int(line.split()[1]) / 1024


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
    pids = pool.worker_pids()
    threading.Timer(0.3, pool.close).start()
    with pytest.raises(FailureError, match="closed"):
        pool.result(ticket)
    wait_until_dead(pids)
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.submit(("square", 1))


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from fastdual.loaders.pool.pool import ProcessPool\n"
        f"pool = ProcessPool({RUN!r}, num_workers=2, timeout_seconds=600)\n"
        "tickets = [pool.submit(('square', 1)) for _ in range(4)]\n"
        "[pool.result(ticket) for ticket in tickets]\n"
        "[pool.submit(('sleep', 600)) for _ in range(2)]\n"
        "print(*pool.worker_pids(), flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    assert parent.stdout is not None and parent.stdin is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids and all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_until_dead(pids)
    parent.stdin.close()
    parent.stdout.close()


def test_a_function_that_cannot_be_imported_is_one_clear_error() -> None:
    with (
        ProcessPool("fastdual.no_such_module:f", num_workers=2, timeout_seconds=5) as pool,
        pytest.raises(FailureError, match="could not import fastdual.no_such_module:f"),
    ):
        pool.result(pool.submit(1))


def test_what_decoders_print_does_not_reach_the_terminal(
    pool: ProcessPool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pool.result(pool.submit(("noise", 1))) == 1
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


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
            for pid in set(pool.worker_pids()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        assert pool.result(ticket) == 49
