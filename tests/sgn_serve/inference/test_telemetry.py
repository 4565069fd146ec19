"""The engines have packages that report each start to their makers, and keep an identifier in the home folder."""

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from sgn_serve.settings import BUNDLED_MODEL

Classifier(read_graph(BUNDLED_MODEL), threads=1, engine=sys.argv[1])
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_reports_to_nobody(tmp_path, engine):
    if importlib.util.find_spec(engine) is None:
        pytest.skip("OpenVINO is not installed: pip install -e '.[openvino]'")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, engine],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done.stderr
    assert not list(tmp_path.iterdir())
