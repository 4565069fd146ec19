"""Statistics as Triton's perf_analyzer reads them: they add up, and rise with what was asked."""

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from tests.sgn_serve.hammer import RED
from tests.sgn_serve.server import running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

NAME = "self-gradient-network"
STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(scope="module")
def started(server):
    with triton.InferenceServerClient(urlsplit(server.url).netloc, connection_timeout=60) as client:
        yield client


def statistics(client, name=NAME):
    (told,) = client.get_inference_statistics(name)["model_stats"]
    return told


def rise(before, after):
    """Return by how much each number of nested statistics has risen."""
    if isinstance(after, dict):
        return {key: rise(before.get(key, {}), value) for key, value in after.items()}
    if isinstance(after, list):
        sizes = {one["batch_size"]: one for one in before}
        return {one["batch_size"]: rise(sizes.get(one["batch_size"], {}), one) for one in after}
    return after if isinstance(after, str) else after - (before or 0)


def infer(client, pictures, output="logits"):
    images = np.zeros((pictures, 3, 8, 8), np.float32)
    given = triton.InferInput("image", images.shape, "FP32")
    given.set_data_from_numpy(images)
    client.infer(NAME, [given], outputs=[triton.InferRequestedOutput(output)])


def test_what_perf_analyzer_asks_for_at_the_start_is_there(started):
    assert "statistics" in started.get_server_metadata()["extensions"]
    assert "dynamic_batching" in started.get_model_config(NAME)
    for name in (NAME, f"{NAME}-image"):
        for version in ("", "1"):
            (told,) = started.get_inference_statistics(name, version)["model_stats"]
            assert (told["name"], told["version"]) == (name, "1")
    assert [one["name"] for one in started.get_inference_statistics()["model_stats"]] == [NAME]


def test_requests_one_after_the_other_are_counted(started):
    before = statistics(started)
    for pictures in (1, 2, 2, 3):
        infer(started, pictures)
    risen = rise(before, statistics(started))
    assert (risen["inference_count"], risen["execution_count"]) == (8, 4)
    assert risen["last_inference"] > 0
    stats = risen["inference_stats"]
    assert {name: stats[name]["count"] for name in stats} == dict.fromkeys(("success", *STAGES), 4) | dict.fromkeys(
        ("fail", "cache_hit", "cache_miss"), 0
    )
    assert all(stats[name]["ns"] > 0 for name in ("success", *STAGES))
    assert sum(stats[name]["ns"] for name in STAGES) <= stats["success"]["ns"] < 60e9
    runs = {size: one["compute_infer"]["count"] for size, one in risen["batch_stats"].items()}
    assert {size: count for size, count in runs.items() if count} == {1: 1, 2: 2, 3: 1}
    for stage in STAGES[1:]:
        times = sum(one[stage]["ns"] for one in risen["batch_stats"].values())
        assert times == pytest.approx(stats[stage]["ns"], abs=10), "each request had a batch of its own"


def test_a_batch_of_several_requests_is_one_execution(started, client):
    before = statistics(started)
    with ThreadPoolExecutor(16) as pool:
        files = [("images", RED)] * 8
        for answer in pool.map(lambda _: client.post("/classify_batch", files=files), range(4)):
            assert answer.status_code == 200
    risen = rise(before, statistics(started))
    assert risen["inference_count"] == risen["inference_stats"]["success"]["count"] == 32, "each picture is one"
    assert 1 <= risen["execution_count"] < 32
    runs = {size: one["compute_infer"]["count"] for size, one in risen["batch_stats"].items()}
    assert sum(size * count for size, count in runs.items()) == 32
    assert sum(runs.values()) == risen["execution_count"]


def test_the_block_on_and_off_are_counted_and_what_is_refused_is_not(started, client):
    before = statistics(started)
    infer(started, 1, "plain_logits")
    infer(started, 1, "self_gradient")
    assert client.post(f"/v2/models/{NAME}/infer", content=b"{}").status_code == 400
    risen = rise(before, statistics(started))
    assert (risen["inference_count"], risen["execution_count"]) == (2, 2)
    assert risen["inference_stats"]["success"]["count"] == 2
    assert client.get("/v2/models/other/stats").json()["code"] == "unknown_model"
    assert client.get(f"/v2/models/{NAME}/versions/2/stats").status_code == 404
    assert client.post("/v2/models/stats").status_code == 405


@pytest.mark.thorough
def test_all_workers_count_together(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    workers = {"BENTOML_CONFIG_OPTIONS": "services.RobustClassifier.workers=2"}
    with running_server(tmp_path, SGN_MODEL=str(model), **workers) as server:
        while "sgn_worker_starts_total 2.0" not in httpx.get(f"{server.url}/metrics").text:
            time.sleep(0.1)  # each worker warms its network up first
        address = urlsplit(server.url).netloc
        with triton.InferenceServerClient(address) as first:
            before = statistics(first)["inference_count"]
        for number in range(12):
            with triton.InferenceServerClient(address) as one:  # a connection of its own, to either worker
                infer(one, 1)
                assert statistics(one)["inference_count"] == before + number + 1
