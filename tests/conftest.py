"""Shared by all tests: where the project is, and how threads wait."""

import os
from pathlib import Path

import pytest

# Read when torch is first imported, by these processes and those that they start. Threads that spin while they wait for
# one that does not get a core make tests on a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).parents[1]
