"""The service, timed beside the GPU's other work."""

from pathlib import Path

import pytest

from release.gpu import serving
from tests.release.gpu.rehearsals import run_of, settings_in


@pytest.mark.thorough
def test_the_service_answers_in_a_rehearsal(tmp_path: Path) -> None:
    run = run_of("serving", settings_in(tmp_path))
    serving.serve(run)
    figures = run.figures_of("serving")
    assert figures["providers"] == "cpu"
    assert figures["median_ms"] > 0
    assert figures["answer"]["label"]
    assert figures["answer"]["self_gradient"] is True
