"""Another model, while requests go on: every worker swaps, no request fails, and a bad model changes nothing."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import httpx
import psutil
import pytest

from sgn_serve.common.graph_format import file_sha256
from sgn_serve.common.refusals import Refusal
from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.serving import reloading
from sgn_serve.serving.predictor import Predictor, PredictorSlot
from sgn_serve.serving.reloading import Reloader, fingerprint
from sgn_serve.serving.trial import Tried, try_model_beside
from sgn_serve.settings import Settings
from sgn_serve.telemetry import metrics
from tests.sgn_serve.asking import classify
from tests.sgn_serve.bad_graphs import BAD_GRAPHS, save_bad_graph
from tests.sgn_serve.hammer import Hammer
from tests.sgn_serve.server import ROOT, application_client, running_server, serve_environment
from tests.sgn_serve.serving.test_model_card import FIGURES
from tests.sgn_serve.tiny_graph import save_tiny_graph

TOKEN = "0123456789abcdef0123456789abcdef"
REPLACING = ROOT / "docs" / "how-to" / "replace-the-model.md"
WORKERS = 2
COLOURS = ("red", "blue", "green")
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


class Reloadable:
    """A server with two workers, and the file of its model."""

    def __init__(self, server, client, model):
        self.server = server
        self.client = client
        self.model = model

    def write(self, *names):
        """Another model, its file replaced at once, as `mv` does."""
        os.replace(save_tiny_graph(self.model.with_suffix(".new"), class_names=names), self.model)

    def reload(self):
        return self.client.post("/admin/reload")

    def workers_by_model(self):
        """Return how many workers serve each graph, by the graph's hash."""
        found = re.findall(r'^sgn_model_info\{graph_sha256="(\w+)".*\} (\d+)', self.client.get("/metrics").text, re.M)
        return {name: int(workers) for name, workers in found if workers != "0"}

    def wait_for(self, graph):
        deadline = time.monotonic() + 60
        while self.workers_by_model() != {graph: WORKERS}:
            assert time.monotonic() < deadline, self.workers_by_model()
            time.sleep(0.1)

    def outcomes(self):
        found = re.findall(r'^sgn_reloads_total\{outcome="(\w+)"\} (\d+)', self.client.get("/metrics").text, re.M)
        return {outcome: int(times) for outcome, times in found}


@pytest.fixture(scope="module")
def reloadable(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model = save_tiny_graph(home / "tiny.onnx")
    settings = {
        "BENTOML_CONFIG_OPTIONS": f"services.RobustClassifier.workers={WORKERS}",
        "SGN_API_TOKEN": TOKEN,
    }
    with (
        running_server(home, SGN_MODEL=str(model), **settings) as server,
        httpx.Client(base_url=server.url, timeout=60, headers=AUTHORIZED) as client,
    ):
        made = Reloadable(server, client, model)
        made.wait_for(client.get("/model").json()["graph_sha256"])
        yield made


@pytest.mark.thorough
def test_every_worker_swaps_and_no_request_fails(reloadable):
    first = reloadable.client.get("/model").json()["graph_sha256"]
    with Hammer(reloadable.server.url, authorization=AUTHORIZED["authorization"]) as hammer:
        hammer.wait_for(20)
        reloadable.write("rot", "gruen", "blau")
        response = reloadable.reload()
        assert response.status_code == 200, response.text
        told = response.json()
        assert (told["outcome"], told["previous_graph_sha256"]) == ("swapped", first)
        reloadable.wait_for(told["graph_sha256"])
        swapped = time.monotonic()
        hammer.wait_for(40)
        reloadable.write("rouge", "vert", "bleu")
        os.kill(reloadable.server.pid, signal.SIGHUP)
        reloadable.wait_for(file_sha256(reloadable.model))
        hammer.wait_for(20)
    assert set(hammer.statuses()) == {200}
    labels = [answer.label for answer in sorted(hammer.answers, key=lambda answer: answer.asked)]
    assert list(dict.fromkeys(labels)) == ["red", "rot", "rouge"], "never an answer out of two models"
    between = {answer.label for answer in hammer.answers if answer.asked > swapped}
    assert between == {"rot", "rouge"}


@pytest.mark.parametrize(
    "bad",
    [
        "damaged",
        "missing",
        "other classes than logits",
        "disagreement that is none",
        "epsilon",
    ],
)
def test_a_bad_model_is_refused_and_the_old_one_keeps_serving(reloadable, bad):
    good = reloadable.model.read_bytes()
    figures = reloadable.model.with_suffix(".json")
    before, outcomes = reloadable.workers_by_model(), reloadable.outcomes()
    if bad == "damaged":
        reloadable.model.write_bytes(good[: len(good) // 2])
    elif bad == "missing":
        reloadable.model.unlink()
    elif bad == "disagreement that is none":
        figures.write_text(json.dumps({**FIGURES, "disagreement": 0.54}))
    elif bad == "epsilon":
        save_tiny_graph(reloadable.model, checkpoint={"epsilon": "8/255"})
    else:
        reloadable.write("one", "two")
    try:
        response = reloadable.reload()
        assert response.status_code == 409, response.text
        error = response.json()["error"]
        assert error["code"] == "model_refused"
        assert str(reloadable.model.with_suffix("")) in error["message"]
        if bad == "damaged":  # whatever is wrong, a signal does in every worker what the request did in one
            os.kill(reloadable.server.pid, signal.SIGHUP)
            deadline = time.monotonic() + 60
            while reloadable.outcomes()["refused"] < outcomes["refused"] + 1 + WORKERS:
                assert time.monotonic() < deadline, reloadable.outcomes()
                time.sleep(0.1)
        else:
            assert reloadable.outcomes()["refused"] == outcomes["refused"] + 1
        assert reloadable.workers_by_model() == before
    finally:
        reloadable.model.write_bytes(good)
        figures.unlink(missing_ok=True)
    assert reloadable.reload().json()["outcome"] == "unchanged"
    assert len(psutil.Process(reloadable.server.pid).children()) == WORKERS
    assert "Traceback" not in reloadable.server.log.read_text()


def documented_refusal(request_id: str) -> dict[str, str]:
    """Return the refused reload that a page shows, with this id of the request."""
    found = re.search(r"^```json\n(.*?)^```", REPLACING.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return {**json.loads(found[1])["error"], "request_id": request_id}


@pytest.mark.thorough
def test_after_models_that_fail_their_trial_a_good_one_is_served_at_once(reloadable):
    good = reloadable.model.read_bytes()
    before = reloadable.workers_by_model()
    with Hammer(reloadable.server.url, clients=2, authorization=AUTHORIZED["authorization"]) as hammer:
        for kind in ("NaN weights", "class name half a pair", "digest a megabyte", "memory"):
            save_bad_graph(kind, reloadable.model)
            response = reloadable.reload()
            assert response.status_code == 409, response.text
            error = response.json()["error"]
            assert error["code"] == "model_refused"
            assert BAD_GRAPHS[kind][1] in error["message"]
            assert "\n" not in error["message"]
            if kind == "NaN weights":
                assert documented_refusal(error["request_id"]) == {
                    **error,
                    "message": error["message"].replace(str(reloadable.model), "model.onnx"),
                }
            assert reloadable.workers_by_model() == before
        reloadable.write("one", "two", "three")
        swapped = reloadable.reload()
        assert (swapped.status_code, swapped.json()["outcome"]) == (200, "swapped")
        reloadable.wait_for(swapped.json()["graph_sha256"])
    assert set(hammer.statuses()) == {200}
    reloadable.model.write_bytes(good)
    reloadable.wait_for(reloadable.reload().json()["graph_sha256"])
    assert "Traceback" not in reloadable.server.log.read_text()


@pytest.mark.thorough
def test_requests_go_on_while_a_model_loops_in_its_trial_and_a_good_one_follows_at_once(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    environment = {"SGN_MODEL": str(model), "SGN_TRIAL_SECONDS": "4", "SGN_API_TOKEN": TOKEN}
    with application_client(Settings.from_environment(environment)) as client, ThreadPoolExecutor(1) as pool:
        client.headers.update(AUTHORIZED)
        served = client.get("/model").json()["graph_sha256"]
        save_bad_graph("endless loop", model)
        reload = pool.submit(client.post, "/admin/reload")
        asked = 0
        while not reload.done():
            assert classify(client)["label"] == "red"
            asked += 1
        assert asked > 1
        refused = reload.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_refused")
        assert BAD_GRAPHS["endless loop"][1] in refused.json()["error"]["message"]
        assert "\n" not in refused.json()["error"]["message"]
        assert client.get("/model").json()["graph_sha256"] == served
        save_tiny_graph(model, class_names=("rot", "gruen", "blau"))
        assert client.post("/admin/reload").json()["outcome"] == "swapped"
        assert classify(client)["label"] == "rot"


def test_new_figures_beside_the_model_are_read_too(reloadable):
    figures = {**FIGURES, "disagreement": {"auroc": 0.5}}
    reloadable.model.with_suffix(".json").write_text(json.dumps(figures))
    assert reloadable.reload().json()["outcome"] == "swapped"
    reloadable.wait_for(reloadable.reload().json()["graph_sha256"])
    deadline = time.monotonic() + 60
    while any(reloadable.client.get("/model").json()["disagreement"] is None for _ in range(4)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_whatever_is_wrong_with_a_new_model_the_old_one_keeps_serving(tmp_path, monkeypatch, caplog):
    def fail(path):
        raise ZeroDivisionError("nobody thought of this")

    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    serving = PredictorSlot()
    old = Predictor(read_graph(settings.model_path), settings)
    serving.put(old)
    monkeypatch.setattr(reloading, "read_graph", fail)
    refusals = metrics.RELOADS.labels(metrics.REFUSED)._value.get()

    async def reload():
        try:
            await Reloader(serving).reload()
        finally:
            await old.stop()

    with pytest.raises(Refusal) as refused:
        asyncio.run(reload())
    assert refused.value.code == "model_refused"
    assert "tiny.onnx: ZeroDivisionError" in refused.value.message
    assert "nobody thought of this" in caplog.text
    assert serving.predictor is old
    assert metrics.RELOADS.labels(metrics.REFUSED)._value.get() == refusals + 1


def test_a_reloaded_model_runs_on_the_engine_of_its_trial(tmp_path, monkeypatch):
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    choice = {"engine": "onnxruntime", "precision": None, "reason": "as it was tried"}

    async def tried(given):
        return Tried(file_sha256(given.model_path), "a summary", (), choice)

    monkeypatch.setattr(reloading, "try_model_beside", tried)

    async def start():
        new = await Reloader(PredictorSlot())._start(settings)
        await new.stop()
        return new.card.engine

    engine = asyncio.run(start())
    assert engine is not None
    assert engine.reason == "as it was tried"


def reload_counts():
    return {name: metrics.RELOADS.labels(name)._value.get() for name in ("swapped", "unchanged", "refused")}


@pytest.mark.parametrize(
    ("names", "counted"),
    [(("rot", "gruen", "blau"), "swapped"), (("one", "two"), "refused"), (None, None)],
    ids=["another model", "a bad model", "the same model"],
)
def test_a_worker_that_has_just_started_catches_up_with_a_reload_that_it_missed(tmp_path, names, counted):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings = Settings(model_path=model)
    serving = PredictorSlot()
    reloader = Reloader(serving)
    before = reload_counts()

    async def start():
        found = fingerprint(model)
        serving.put(Predictor(read_graph(model), settings))
        reloader.remember(found)
        if names:
            save_tiny_graph(model, class_names=names)
        await reloader.catch_up()
        served = serving.predictor
        await asyncio.sleep(0.1)  # the old one leaves
        await served.stop()
        return served.description.class_names[0]

    assert asyncio.run(start()) == ("rot" if counted == "swapped" else "red")
    after = reload_counts()
    assert {name for name in after if after[name] != before[name]} == ({counted} if counted else set())


@pytest.mark.parametrize(
    "before",
    ["another model", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("no model", "a folder"))],
)
def test_what_a_file_held_before_it_was_tried_is_not_what_is_served(tmp_path, monkeypatch, before):
    """A deployment that another one follows at once, and that is then put back."""
    red, blue, green = (save_tiny_graph(tmp_path / f"{name}.onnx", class_names=(name, "b", "c")) for name in COLOURS)
    model = tmp_path / "served.onnx"
    shutil.copy(red, model)
    serving = PredictorSlot()
    reloader = Reloader(serving)
    tried = try_model_beside

    def put(what):
        model.rmdir() if model.is_dir() else model.unlink(missing_ok=True)
        if what == "a folder":
            model.mkdir()
        elif what != "no model":
            shutil.copy(green if what == "the next model" else blue, model)

    async def replaced(settings):
        put("the next model")
        return await tried(settings)

    async def deploy():
        serving.put(Predictor(read_graph(model), Settings(model_path=model)))
        reloader.remember(fingerprint(model))
        put(before)
        monkeypatch.setattr(reloading, "try_model_beside", replaced)
        assert (await reloader.reload()).outcome == "swapped"
        assert serving.predictor.description.class_names[0] == "green"
        monkeypatch.setattr(reloading, "try_model_beside", tried)
        assert (await reloader.reload()).outcome == "unchanged"
        put(before)
        with nullcontext() if before == "another model" else pytest.raises(Refusal):
            await reloader.reload()
        assert serving.predictor.description.class_names[0] == ("blue" if before == "another model" else "green")
        await asyncio.sleep(0.1)  # the old ones leave
        await serving.predictor.stop()

    asyncio.run(deploy())


START = """
import asyncio, os, signal, sys
from sgn_serve import service
assert not {"sgn_serve.app", "onnx"} & sys.modules.keys(), "the supervisor, which imports it too, needs neither"

async def start(worker):
    listen = asyncio.get_running_loop().add_signal_handler

    def replace_and_listen(*arguments):
        os.replace(sys.argv[1], os.environ["SGN_MODEL"])
        listen(*arguments)

    asyncio.get_running_loop().add_signal_handler = replace_and_listen
    await worker.start()
    print(service.state().slot.predictor.description.class_names[0])
    await worker.stop()

asyncio.run(start(service.RobustClassifier.inner()))
"""


@pytest.mark.thorough
def test_a_model_replaced_at_the_last_moment_before_a_worker_hears_of_reloads_is_served(tmp_path):
    """The latest moment at which the supervisor sends that worker no signal."""
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    another = save_tiny_graph(tmp_path / "another.onnx", class_names=("rot", "gruen", "blau"))
    environment = serve_environment(tmp_path, SGN_MODEL=str(model))
    started = subprocess.run(
        [sys.executable, "-c", START, str(another)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert started.stdout.splitlines()[-1:] == ["rot"], started.stderr


def test_what_never_ends_is_no_graph_and_is_not_read(tmp_path):
    pipe, large = tmp_path / "pipe.onnx", tmp_path / "large.onnx"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # a reader finds somebody there, and waits for the end
    os.write(writer, b"a graph")
    with large.open("wb") as file:
        file.truncate((2 << 30) + 1)
    assert fingerprint(pipe) == fingerprint(large) == ("", "", "")
    with pytest.raises(GraphError, match="a pipe or a device, not a file"):
        read_graph(pipe)
    with pytest.raises(GraphError, match="larger than 2 GiB"):
        read_graph(large)
    os.close(writer)
