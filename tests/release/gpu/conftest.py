"""One rehearsal of everything, for all tests that read what it wrote."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from release.gpu.command import run_stages
from release.gpu.plan import REHEARSAL
from release.gpu.record import NAME
from release.gpu.stage import Settings
from tests.release.gpu.rehearsals import FAILING, OVERLONG, settings_in
from tests.warm_python import running_warm_python

NOT_IN_THE_IMAGE = ("onnx", "onnxruntime", "onnxscript", "openvino", "bentoml", "pydantic", "starlette", "httpx")
STAGES_IMPORT = ("training.loop.trainer", "training.attacks.auto_attack", "torch._dynamo")
"""Modules that most stages import. They are imported once, where what the image may lack cannot be imported either."""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A program `python` with the imports of stages, and the folder that keeps what the image may lack out of it."""
    blocker = tmp_path_factory.mktemp("blocker")
    (blocker / "sitecustomize.py").write_text(
        f"""
from functools import partial
from importlib.machinery import PathFinder

def find_spec(find, name, *rest):
    return None if name.split(".")[0] in {NOT_IN_THE_IMAGE} else find(name, *rest)

PathFinder.find_spec = partial(find_spec, PathFinder.find_spec)
"""
    )
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(blocker))
            python = stack.enter_context(running_warm_python(STAGES_IMPORT))
        yield python, blocker


@contextmanager
def stages_in(image: tuple[Path, Path]) -> Iterator[None]:
    """Run stages, and what they start, as in the image."""
    python, blocker = image
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(blocker))
        patch.setattr(sys, "executable", str(python))
        patch.setenv("WARM_PYTHON", str(python))
        yield


@pytest.fixture
def warm_stages(image: tuple[Path, Path]) -> Iterator[None]:
    """Stages of this test start fast."""
    with stages_in(image):
        yield


@pytest.fixture(scope="session")
def rehearsal(image: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Settings]:
    """gpu.json of a rehearsal with two planted stages, in which what the image may lack cannot be imported."""
    settings = settings_in(tmp_path_factory.mktemp("rehearsal"))
    stages = (REHEARSAL[0], FAILING, OVERLONG, *REHEARSAL[1:])
    with stages_in(image):
        assert run_stages(stages, settings, {"rehearsal": True}, minutes=10) == 1
    return json.loads((Path(settings.out) / NAME).read_text()), settings
