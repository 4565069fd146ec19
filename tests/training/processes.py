"""Trainings in processes of their own, which tests can kill."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.short_attacks import shorten

_ROOT = Path(__file__).parents[2]
# The server imports once what each new Python would take seconds of processor time to import, and forks from there.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["training.train", "torch._dynamo"])


def start_training(argv: list[str], folder: Path, **environment: str) -> BaseProcess:
    """Start `python -m training` with these arguments in a folder; its standard error is added to error.txt there.

    Its validation takes as few steps as with the fixture short_attacks, so that its figures can be compared.
    """
    process = _SERVER.Process(target=_train, args=(argv, folder, environment), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(_ROOT))  # read where the server is not running yet
        process.start()
    return process


def start_torchrun(argv: list[str], folder: Path) -> BaseProcess:
    """Start `torchrun` with these arguments in a folder; only what it starts itself are new Pythons."""
    process = _SERVER.Process(target=_torchrun, args=(argv, folder), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(_ROOT))
        process.start()
    return process


def _torchrun(argv: list[str], folder: Path) -> None:
    from torch.distributed.run import main

    os.chdir(folder)
    os.environ.update({"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"})
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    main(argv)


def _train(argv: list[str], folder: Path, environment: dict[str, str]) -> None:
    from training.command import main

    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, name in ((1, "output.txt"), (2, "error.txt")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    shorten()
    sys.exit(main(argv))
