"""The service's side of the fork server."""

import asyncio
import subprocess
import sys

import pytest

from sgn_serve.decoder_processes import launcher
from sgn_serve.decoder_processes.child import Bounds
from sgn_serve.decoder_processes.launcher import ForkServer


@pytest.mark.parametrize("reads", [True, False])
def test_a_fork_server_that_ends_at_its_start_is_told_in_words(monkeypatch, reads):
    """The system says "Connection reset by peer" where it ends before it has read everything."""

    def ends(far_end, malloc):
        code = f"import os, socket; s = socket.socket(fileno={far_end.fileno()}); s.recv({1 << 20 if reads else 1})"
        return subprocess.Popen([sys.executable, "-S", "-c", code], pass_fds=[far_end.fileno()])

    monkeypatch.setattr(launcher, "_start_program", ends)
    bounds = Bounds(memory_bytes=1 << 30, cpu_seconds=1.0, threads=False)
    server = ForkServer("a:b", {}, (bounds, bounds))
    with pytest.raises(
        OSError, match=r"^the fork server of the decoders ended at its start; lines above it may say why$"
    ):
        asyncio.run(server.start())
