"""The workers of a Ray cluster on this machine, which benchmarks.local_ray starts."""

import re
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

WAIT_SECONDS = 300.0
_STAY = ("SpillWorker", "RestoreWorker")
"""Ends of the names of processes that Ray keeps for its disk, whoever asked for them first."""


def workers(address: str) -> list[int]:
    """Return the numbers of the processes that a cluster on this machine has for work.

    Args:
        address: The address of its head.
    """
    found = []
    head = re.compile(rf"--gcs-address=\S+:{address.rpartition(':')[2]}\b")
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] != "raylet" or not head.search(" ".join(process.info["cmdline"] or [])):
            continue
        with suppress(psutil.NoSuchProcess):
            for child in process.children():
                with suppress(psutil.NoSuchProcess):
                    if _is_worker(child.cmdline()):
                        found.append(child.pid)
    return found


def kill_head(address: str) -> None:
    """Kill the process that is the head of a cluster on this machine.

    Args:
        address: The address of its head.
    """
    port = f"={address.rpartition(':')[2]}"
    (head,) = [found for found in psutil.process_iter(["cmdline"]) if _is_head(found.info["cmdline"] or [], port)]
    head.kill()


def _is_head(command: list[str], port: str) -> bool:
    return bool(command) and command[0].endswith("gcs_server") and any(item.endswith(port) for item in command)


def _is_worker(command: list[str]) -> bool:
    if command and command[0].startswith("ray::"):  # the name of what it does
        return not command[0].endswith(("Agent", *_STAY))
    stays = any(part.endswith(("=SPILL_WORKER", "=RESTORE_WORKER")) for part in command)
    return not stays and any(part.endswith("default_worker.py") for part in command)


def wait_until(holds: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for something, and fail where it does not come.

    Args:
        holds: Whether it is there.
        what: What it is, for the message.
        seconds: The longest time to wait.
    """
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"after {seconds:g} s it is not so that {what}"
        time.sleep(0.05)
