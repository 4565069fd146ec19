"""Planted faults, as a client sees them: each costs its own picture an error, and the next request is answered."""

import sys
from functools import partial
from pathlib import Path
from platform import machine

import pytest

from sgn_serve.decoder_processes.sharing import SharedDecoder
from sgn_serve.process.confinement import _MACHINES, landlock_version
from sgn_serve.settings import Settings
from tests.sgn_serve.decoder_processes import faults
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import save_tiny_graph

LINUX = sys.platform.startswith("linux")
FAULTS = {
    "segfault": (422, "decoder_crashed"),
    "abort": (422, "decoder_crashed"),
    "exit": (422, "decoder_crashed"),
    "raise": (400, "damaged_image"),
    "allocate": (413, "too_many_pixels"),
    "open": (400, "damaged_image"),
    "connect": (400, "damaged_image"),
}


@pytest.mark.parametrize(
    ("faults_of", "seconds"),
    # All but the loop have as long as a busy machine may take; each loop is ended after that time.
    [
        pytest.param(FAULTS, 60.0, id="faults"),
        pytest.param(
            dict.fromkeys(("loop", "loop_deaf"), (413, "too_slow_to_decode")),
            2.0,
            marks=pytest.mark.thorough,
            id="loops",
        ),
    ],
)
def test_a_fault_costs_its_own_picture_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults_of: dict[str, tuple[int, str]], seconds: float
) -> None:
    monkeypatch.setattr("sgn_serve.serving.predictor.SharedDecoder", partial(SharedDecoder, job=faults.JOB))
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), decoders=1, decode_seconds=seconds)
    with application_client(settings) as client:
        for command, (status, code) in faults_of.items():
            refused = client.post("/classify", files={"image": command.encode()})
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), command
            assert client.post("/classify", files={"image": b"well"}).status_code == 200
            several = client.post("/classify_batch", files=[("images", b"well"), ("images", command.encode())]).json()
            assert "label" in several["predictions"][0]
            assert several["predictions"][1]["error"]["code"] == code
        shown = client.get("/metrics").text
    if "loop" in faults_of:
        assert 'sgn_decoder_ends_total{reason="time"}' in shown
    assert "sgn_decoder_processes " in shown
    active = {"memory": LINUX, "landlock": landlock_version() > 0, "seccomp": LINUX and machine() in _MACHINES}
    for means, is_active in active.items():
        assert (f'sgn_decoder_confinement{{means="{means}"}} 1.0' in shown) == is_active, means
