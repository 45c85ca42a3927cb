"""What a process costs: CPU time and memory, children included."""

import mmap
import os
import subprocess
import sys
import time

from bench.parts.processes import memory_mib, process_tree


def test_cpu_time_and_memory_include_children() -> None:
    code = "x = bytearray(80 << 20)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        time.sleep(1.5)
        seconds = process_tree(os.getpid())
        alone = memory_mib([child.pid])
        child.kill()
    assert seconds[child.pid] > 0.2
    assert alone > 75


def test_memory_counts_what_a_process_fills() -> None:
    kinds = ("Pss_Anon:", "Pss_Shmem:")
    before = memory_mib([os.getpid()], kinds)
    with mmap.mmap(-1, 50 << 20) as filled:
        filled.write(b"x" * len(filled))
        assert 49 < memory_mib([os.getpid()], kinds) - before < 110  # with what was written
    assert memory_mib([2**22 + 1]) == 0  # no such process
