"""Exports in processes of their own, without the imports of each."""

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# The server imports once what each new Python would take seconds of processor time to import, and forks from there.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["export.export", "torch._dynamo"])


def start_export(arguments: list[str], folder: Path, kernels: Path | None = None) -> BaseProcess:
    """Start `python -m export` with these arguments; what it prints goes to output.txt and error.txt in a folder.

    Args:
        arguments: Its arguments.
        folder: Where the two files are written.
        kernels: Folder in which the kernels' libraries are looked for, None for the usual one.
    """
    process = _SERVER.Process(target=_export, args=(arguments, folder, kernels), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(_ROOT))  # read where the server is not running yet
        process.start()
    return process


def _export(arguments: list[str], folder: Path, kernels: Path | None) -> None:
    from export.kernels import onnx_functions, operators

    for descriptor, name in ((1, "output.txt"), (2, "error.txt")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    if kernels is not None:
        for module in (operators, onnx_functions):
            vars(module)["BUILD_FOLDER"] = kernels
    sys.argv = ["export", *arguments]
    runpy.run_module("export", run_name="__main__", alter_sys=True)
