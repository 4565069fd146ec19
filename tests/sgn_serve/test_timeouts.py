"""Show that requests whose time is up keep their room for as long as the network still works on them.

BentoML's own limit of requests at the same time does not outlive its time limit: whoever timed out lets others in,
while the first still compute. Source: https://github.com/bentoml/BentoML/issues/5642
"""

import threading
import time

from sgn_serve.app import State
from sgn_serve.http import error_form
from sgn_serve.inference.classifier import Classifier
from sgn_serve.settings import Settings
from tests.sgn_serve.asking import RED, classify
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import save_tiny_graph

LIMIT_SECONDS = 60


class HeldNetwork:
    """Hold every run of the network back while `go_on` is not set, and count the runs at the same time."""

    def __init__(self, monkeypatch):
        self.go_on = threading.Event()
        self.go_on.set()
        self.runs = self.running = self.most = 0
        run = Classifier.logits

        def logits(classifier, *arguments, **options):
            self.runs += 1
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                assert self.go_on.wait(LIMIT_SECONDS)
                return run(classifier, *arguments, **options)
            finally:
                self.running -= 1

        monkeypatch.setattr(Classifier, "logits", logits)


def code(response):
    return response.status_code, response.json()["error"]["code"]


def ask(client):
    return client.post("/classify", files={"image": RED})


def test_a_request_that_timed_out_lets_no_other_into_the_network(tmp_path, monkeypatch):
    network = HeldNetwork(monkeypatch)
    state = State()
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), max_queue=1, max_images=1)
    with application_client(settings, state=state) as client:
        classify(client)
        batcher = state.slot.predictor.batcher
        network.go_on.clear()
        before = network.runs
        monkeypatch.setattr(error_form, "ANSWER_SECONDS", 0.5)
        try:
            assert code(ask(client)) == (504, "timeout")
            for _ in range(5):
                assert code(ask(client)) == (503, "overloaded")
                assert (batcher.pending, network.running) == (1, 1), "the first is still in the network"
            assert network.runs == before + 1
        finally:
            network.go_on.set()
        monkeypatch.setattr(error_form, "ANSWER_SECONDS", 55.0)
        deadline = time.monotonic() + LIMIT_SECONDS
        while batcher.pending:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        classify(client)
    assert network.most == 1


def test_requests_that_timed_out_before_their_turn_free_their_room_and_are_never_run(tmp_path, monkeypatch):
    network = HeldNetwork(monkeypatch)
    state = State()
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), max_queue=2, max_images=2)
    with application_client(settings, state=state) as client:
        classify(client)
        network.go_on.clear()
        before = network.runs
        monkeypatch.setattr(error_form, "ANSWER_SECONDS", 0.5)
        try:
            for _ in range(4):
                assert code(ask(client)) == (504, "timeout")
                assert state.slot.predictor.batcher.pending == 1, "the one in the network"
        finally:
            network.go_on.set()
        monkeypatch.setattr(error_form, "ANSWER_SECONDS", 55.0)
        classify(client)
    assert network.runs == before + 2, "the first, and the last"
    assert network.most == 1
