"""Show that requests whose time is up keep their room for as long as the network still works on them.

BentoML's own limit of requests at the same time does not outlive its time limit. Whoever timed out lets others in,
while the first still compute. Source: https://github.com/bentoml/BentoML/issues/5642
"""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.testclient import TestClient

from sgn_serve.app import State
from sgn_serve.http import error_form
from sgn_serve.inference.batching import Batcher
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


@dataclass(frozen=True)
class Held:
    """An application for tests, its network, which is held back, and the batcher whose requests wait for it."""

    client: TestClient
    network: HeldNetwork
    batcher: Batcher


@contextmanager
def held_network(tmp_path, monkeypatch, room):
    """Run the application with a network that is held back and a short time limit until the block ends.

    Args:
        tmp_path: A folder for the model.
        monkeypatch: pytest's.
        room: How many pictures may wait or be computed.
    """
    network = HeldNetwork(monkeypatch)
    state = State()
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), max_queue=room, max_images=room)
    with application_client(settings, state=state) as client:
        classify(client)
        network.runs = 0
        network.go_on.clear()
        with monkeypatch.context() as limited:
            limited.setattr(error_form, "ANSWER_SECONDS", 0.5)
            try:
                yield Held(client, network, state.slot.predictor.batcher)
            finally:
                network.go_on.set()
        deadline = time.monotonic() + LIMIT_SECONDS
        while state.slot.predictor.batcher.pending:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        classify(client)
    assert network.most == 1


def test_a_request_that_timed_out_lets_no_other_into_the_network(tmp_path, monkeypatch):
    with held_network(tmp_path, monkeypatch, room=1) as held:
        assert code(ask(held.client)) == (504, "timeout")
        for _ in range(5):
            assert code(ask(held.client)) == (503, "overloaded")
            assert (held.batcher.pending, held.network.running) == (1, 1), "the first is still in the network"
        assert held.network.runs == 1


def test_requests_that_timed_out_before_their_turn_free_their_room_and_are_never_run(tmp_path, monkeypatch):
    with held_network(tmp_path, monkeypatch, room=2) as held:
        for _ in range(4):
            assert code(ask(held.client)) == (504, "timeout")
            assert held.batcher.pending == 1, "the one in the network"
    assert held.network.runs == 2, "the first, and the last"
