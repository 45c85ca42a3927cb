"""Arrays that workers fill lie in the parent's memory, which is used again and let go."""

import gc
import os
import signal
import subprocess
import sys

import numpy as np
import torch

from fastdual.loaders.pool import ProcessPool, TaskFailure
from fastdual.loaders.pool.memory import RecycledMemory, SharedMemory, SharedRows, Target
from tests.loaders.processes import shared_maps, worker_pids

RUN = "tests.loaders.pool.tasks:run"


def test_tasks_fill_rows_of_one_memory_and_nothing_beside_them() -> None:
    memory = SharedMemory(4 * 3 * 100_000)
    shared = SharedRows(memory, memory.array((3, 100_000), "<f4"))
    with ProcessPool(RUN, num_workers=2, timeout_seconds=20) as pool:
        tickets = [
            pool.submit(("fill", 1.5), out=shared.row(0)),
            pool.submit(("fill", 2.5), out=shared.row(1, 10)),
        ]
        assert [pool.result(ticket) for ticket in tickets] == [None, None]
        assert shared.row(1, 10).array.tolist() == [2.5] * 10
        pool.release(tickets[1])
        os.kill(worker_pids()[0], signal.SIGKILL)  # its arrays stay readable
        assert pool.result(pool.submit(("fill", 3.5), out=shared.row(2, 0))) is None
    assert (shared.values[0] == 1.5).all() and not shared.values[1, 10:].any()
    assert not shared.values[2].any()


def test_a_target_beyond_its_memory_fails_the_task() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        target = Target(SharedMemory(100), (101,), "|u1")
        failure = pool.result(pool.submit(("fill", 1), out=target))
        assert isinstance(failure, TaskFailure) and failure.kind == "error"
        assert pool.result(pool.submit(("square", 2))) == 4


def test_a_worker_lets_go_of_memory_that_is_gone() -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        kept = SharedMemory(1 << 20)
        for number in range(40):
            memory = SharedMemory(1 << 20)
            for target in (kept, memory):
                out = Target(target, (5, 3), "|u1", 1024)
                ticket = pool.submit(("fill", number), out=out)
                assert pool.result(ticket) is None
                pool.release(ticket)
                assert (out.array == number).all()
                assert (target.array((15,), "|u1", 1024) == number).all()
            del target, memory, out
            (pid,) = worker_pids()
            assert shared_maps(pid) <= 3  # the one kept, the last, the one before


def test_memory_can_be_sent_until_the_interpreter_has_ended() -> None:
    """Loaders are closed at exit, and until then their workers are given memory to write to."""
    code = (
        "import os, weakref\n"
        "from fastdual.loaders.pool.memory import SharedMemory\n"
        "class Loader: pass\n"
        "loader, held = Loader(), []\n"
        "weakref.finalize(loader, lambda: print(os.fstat(held[0].descriptor).st_size))\n"
        "held.append(SharedMemory(4096))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("4096\n", "")


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    memory = RecycledMemory(8)

    def take(*shape: int) -> torch.Tensor:
        shared = memory.take(shape, "<f4")
        assert shared is not None
        return torch.from_numpy(shared.values)

    first, second = take(4, 1000), take(4, 1000)
    place = first.data_ptr()
    assert second.data_ptr() != place
    row = first[2].view(10, 100).numpy()
    del first
    gc.collect()
    assert take(4, 1000).data_ptr() != place  # `row` is a part of it
    del row
    assert take(4, 1000).data_ptr() == place
    assert take(3, 1000).shape == (3, 1000)
    assert memory.take((0, 1000), "<f4") is None
    held = [take(1, 10) for _ in range(7)]  # `second` is the eighth
    assert len({batch.data_ptr() for batch in held}) == 7
    assert memory.take((2, 10), "<f4") is None
    held.clear()
    assert memory.take((2, 10), "<f4") is not None
    del second


def test_without_a_limit_memory_is_always_shared() -> None:
    memory = RecycledMemory()
    held = [memory.take((2, 3), "|u1") for _ in range(20)]
    assert all(shared is not None and shared.values.dtype == np.uint8 for shared in held)
