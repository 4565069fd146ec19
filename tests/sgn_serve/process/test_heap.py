import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
from pathlib import Path
from sgn_serve.process.heap import use_one_heap
if len(sys.argv) > 1:
    use_one_heap()

together = threading.Barrier(8)

def work():
    together.wait()
    bytearray(50_000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
# Every further heap of glibc reserves 64 MiB of addresses, of which it has made a part usable.
spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
print(sum(int(start, 16) % (64 << 20) == 0 for start, _ in spans))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such heaps")
def test_threads_start_no_heaps_of_their_own() -> None:
    def heaps(*arguments: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert heaps("one") == 0 < heaps()
