import ctypes
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc tells what is free")
def test_every_process_begins_with_a_full_heap(project_root):
    program = "from sgn_serve.process.heap import fill_heap\nprint(fill_heap())"
    for tunables in ("", "glibc.malloc.hugetlb=1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=project_root,
            env=os.environ | {"GLIBC_TUNABLES": tunables},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
        assert 0 < int(done.stdout) <= 4096
