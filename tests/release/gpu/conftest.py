"""One rehearsal of everything, for all tests that read what it wrote."""

import json
import sys
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
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Settings]:
    """gpu.json of a rehearsal with two planted stages, in which what the image may lack cannot be imported."""
    folder = tmp_path_factory.mktemp("rehearsal")
    blocker = folder / "blocker"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        f"""
from functools import partial
from importlib.machinery import PathFinder

def find_spec(find, name, *rest):
    return None if name.split(".")[0] in {NOT_IN_THE_IMAGE} else find(name, *rest)

PathFinder.find_spec = partial(find_spec, PathFinder.find_spec)
"""
    )
    settings = settings_in(folder)
    stages = (REHEARSAL[0], FAILING, OVERLONG, *REHEARSAL[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(blocker))
        with running_warm_python(STAGES_IMPORT) as python:
            patch.setattr(sys, "executable", str(python))
            patch.setenv("WARM_PYTHON", str(python))
            assert run_stages(stages, settings, {"rehearsal": True}, minutes=10) == 1
    return json.loads((Path(settings.out) / NAME).read_text()), settings
