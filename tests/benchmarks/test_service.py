"""The benchmark of the service: the systems that it compares give the same answers, and how its figures are made."""

import base64
import importlib.util
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.service.command import BUNDLED, running, shares_by_round


@pytest.mark.parametrize("system", ["fastapi", "litserve"])
def test_the_others_answer_as_this_service_does(system: str, project_root: Path) -> None:
    if importlib.util.find_spec(system) is None:
        pytest.skip(f"{system} is not installed: pip install -e '.[bench]'")
    pictures = [project_root / "examples" / f"{name}_00.png" for name in ("ship", "cat")]
    answers = {}
    given: dict[str, Any]
    for name in ("ours", system):
        with running(name, BUNDLED, threads=1) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for picture in pictures:
                if name == "litserve":
                    given = {"json": {"image": base64.b64encode(picture.read_bytes()).decode()}}
                else:
                    given = {"files": {"image": picture.read_bytes()}}
                answer = client.post("/classify", timeout=60, **given).raise_for_status().json()
                answers[name, picture.name] = answer["label"], pytest.approx(answer["probability"], abs=1e-3)
    for picture in pictures:
        assert answers["ours", picture.name] == answers[system, picture.name]


def test_the_share_of_the_engine_is_of_the_same_round() -> None:
    ours = [{"requests_per_second": 150.0}, {"requests_per_second": 300.0}]
    assert shares_by_round(ours, [200.0, 600.0]) == [0.75, 0.5]
