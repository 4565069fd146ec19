"""How often a graph gives the float32 network's answer, on clean and attacked pictures."""

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from export.check.agreement import BATCH, Agreement, agreements_json, measure_agreement
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS
from tests.export.networks import network_around
from training.networks.self_gradient import SelfGradientNetwork

EPS = 8 / 255


@pytest.fixture(scope="module")
def network() -> SelfGradientNetwork:
    torch.manual_seed(0)
    return network_around(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(BATCH + 10, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def both_outputs(network: SelfGradientNetwork, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return {LOGITS: network(images), PLAIN_LOGITS: network.plain_logits(images)}


def test_the_network_agrees_with_itself_on_pictures_and_on_attacked_ones(network, pictures):
    asked: list[Tensor] = []

    def runner(images: Tensor) -> Mapping[str, Tensor]:
        asked.append(images)
        return both_outputs(network, images)

    generator_before = torch.get_rng_state()
    agreements = measure_agreement(runner, network, pictures, EPS)
    assert torch.equal(torch.get_rng_state(), generator_before)
    assert [agreement.output for agreement in agreements] == [LOGITS, PLAIN_LOGITS]
    for agreement in agreements:
        assert (agreement.pictures, agreement.clean, agreement.attacked) == (BATCH + 10, 1, 1)
    clean, attacked = torch.cat(asked[::2]), torch.cat(asked[1::2])
    assert torch.equal(clean, pictures)
    assert 0.9 * EPS < (attacked - clean).abs().max() <= EPS + 1e-6
    with torch.no_grad():
        assert (network(attacked).argmax(1) != network(clean).argmax(1)).any(), "the attack reaches the boundary"


def test_the_share_of_other_answers_is_told_for_each_output(network, pictures):
    def runner(images: Tensor) -> Mapping[str, Tensor]:
        outputs = both_outputs(network, images)
        logits = outputs[LOGITS].clone()
        if torch.equal(images, pictures[: len(images)]):
            logits[:20] = -logits[:20]
        return {LOGITS: logits, PLAIN_LOGITS: -outputs[PLAIN_LOGITS]}

    on, off = measure_agreement(runner, network, pictures[:40], EPS)
    assert (on.clean, on.attacked, on.lowest) == (0.5, 1, 0.5)
    assert (off.clean, off.attacked, off.lowest) == (0, 0, 0)


def test_without_a_block_there_is_one_output(network, pictures):
    plain = SelfGradientNetwork(network.backbone, None).eval()

    def runner(images: Tensor) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return {PLAIN_LOGITS: plain.plain_logits(images)}

    (only,) = measure_agreement(runner, plain, pictures[:5], EPS)
    assert (only.output, only.pictures, only.lowest) == (PLAIN_LOGITS, 5, 1)


def test_a_line_says_whether_there_were_enough_pictures():
    few = Agreement(LOGITS, 999, 0.5, 0.25, "an attack")
    assert few.line() == (
        f"{LOGITS}: same top-1 as float32 on 50.00% of 999 pictures, 25.00% of them attacked by an attack"
        "  (rough: fewer than 1,000 pictures)"
    )
    assert "rough" not in Agreement(LOGITS, 1000, 1, 1, "an attack").line()
    assert json.loads(agreements_json((few,))) == [
        {"output": LOGITS, "pictures": 999, "clean": 0.5, "attacked": 0.25, "attack": "an attack"}
    ]
