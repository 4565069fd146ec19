"""The benchmark of the service: the systems that it compares give the same answers, and how its figures are made."""

import base64
import importlib.util
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.service.command import BUNDLED, auto_gains, check_precision, running, shares_by_round


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


def test_with_auto_the_service_says_so(project_root: Path) -> None:
    picture = (project_root / "examples" / "ship_00.png").read_bytes()
    with running("auto", BUNDLED, threads=1) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/classify", files={"image": picture}, timeout=60).json()
        assert (answer["label"], answer["mode"]) == ("ship", "auto")
        with pytest.raises(
            BenchmarkError, match=r"it serves in float32: SGN_PROVIDERS=cpu .*; leave it out of --systems"
        ):
            check_precision(port)


def test_auto_is_compared_with_the_faster_of_the_others() -> None:
    rates = {"this service": 300.0, "this service, auto": 500.0, "FastAPI and ONNX Runtime": 200.0}
    services = {name: {"8": {"requests_per_second": rate}} for name, rate in rates.items()}
    assert auto_gains({"services": services}) == {"this service, auto": {"8": 2.5}}
    services["LitServe and ONNX Runtime"] = {"8": {"requests_per_second": 250.0}}
    assert auto_gains({"services": services}) == {"this service, auto": {"8": 2.0}}
    assert auto_gains({"services": {name: services[name] for name in ("this service", "this service, auto")}}) == {}


def test_the_share_of_the_engine_is_of_the_same_round() -> None:
    ours = [{"requests_per_second": 150.0}, {"requests_per_second": 300.0}]
    assert shares_by_round(ours, [200.0, 600.0]) == [0.75, 0.5]
