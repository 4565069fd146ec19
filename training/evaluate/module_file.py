"""Load the network of --module: what a function of a Python file returns."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sgn_serve.common.command_parser import did_you_mean
from sgn_serve.common.error_text import one_line
from training.evaluate.any_module import JudgeError
from training.evaluate.options import MODULE_EXAMPLE, function_of


def load_module(given: str) -> nn.Module:
    """Return the module that the function of a file returns. The file may import what lies beside it.

    Args:
        given: The file and the name of the function, such as "models/my.py:build".

    Raises:
        OptionError: There is no such file.
        JudgeError: There is no such function, it fails, or it returns something else. Where the file's own code
            fails, the message names the line.
    """
    path, name = function_of(given)
    module = _run_file(given, path)
    build = getattr(module, name, None)
    if isinstance(build, nn.Module):
        raise JudgeError(
            f"--module {given}: {name} is a module itself; name a function that returns it, such as one of the line "
            f"`def build(): return {name}`"
        )
    if not callable(build):
        known = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        suggested = did_you_mean(name, known)
        raise JudgeError(f"--module {given}: {path} defines no function {name!r}; {suggested}{MODULE_EXAMPLE}")
    try:
        built: Any = build()
    except (Exception, SystemExit) as error:
        raise JudgeError(_failure(given, path, error)) from error
    if not isinstance(built, nn.Module):
        raise JudgeError(f"--module {given}: {name}() returns a {type(built).__name__}, not a torch.nn.Module")
    return built


def _run_file(given: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    if spec is None or spec.loader is None:
        raise JudgeError(f"--module {given}: Python cannot import {path}; {MODULE_EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # comes last: a file beside it takes the place of no library
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise JudgeError(_failure(given, path, error)) from error
    return module


def _failure(given: str, path: Path, error: Exception | SystemExit) -> str:
    """Return an error of the file's own code as one line, with the last line of that file that it went through."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())
    ]
    what, file, where = one_line(error), path.name, f", line {lines[-1]}" if lines else ""
    # Its own text names the file and the line too; it may be one that it imports, but none that `eval` was given.
    if isinstance(error, SyntaxError):
        what = error.msg
        if error.lineno and Path(error.filename or path).is_file():
            file, where = Path(error.filename or path).name, f", line {error.lineno}"
    return f"--module {given}: {type(error).__name__}: {what} ({file}{where})"
