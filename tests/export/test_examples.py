"""Example pictures beside a graph: which are chosen, what is done to them, what the service makes of them."""

import base64
import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export import examples
from export.examples import (
    ExamplesError,
    ExamplesWanted,
    attacks_on,
    in_turn,
    load_candidates,
    make_examples,
    own_targets,
    scaled,
    steps_of,
    write_examples,
)
from sgn_serve.common.graph_format import METADATA_KEY, SHA256_KEY
from sgn_serve.inference.graph import read_graph
from sgn_serve.records import Examples
from sgn_serve.serving.examples import read_examples
from sgn_serve.settings import BUNDLED_MODEL
from tests.sgn_serve.tiny_graph import save_tiny_graph
from training.checkpoint import CheckpointInfo, load_checkpoint
from training.networks.self_gradient import SelfGradientNetwork

SHA256 = "a" * 64
STEPS = 8


@pytest.fixture(scope="module")
def data(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of each class in a folder of one's own."""
    folder = tmp_path_factory.mktemp("data")
    with (project_root / "examples" / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["filename"][-6:] in ("00.png", "01.png", "02.png", "03.png"):
                (folder / "test" / row["label"]).mkdir(parents=True, exist_ok=True)
                shutil.copy(project_root / "examples" / row["filename"], folder / "test" / row["label"])
    return folder


@pytest.fixture(scope="module")
def bundled() -> tuple[SelfGradientNetwork, CheckpointInfo]:
    return load_checkpoint(BUNDLED_MODEL.with_suffix(".safetensors"))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attack alone, and of few steps."""
    monkeypatch.setattr(
        examples, "attacks_on", lambda block, eps: (replace(attacks_on(block, eps)[0], steps=3, step_size=eps),)
    )


def wanted(count: int, data: Path) -> ExamplesWanted:
    return ExamplesWanted(count, data, None, "python -m export")


def made(model: SelfGradientNetwork, info: CheckpointInfo, count: int, data: Path) -> Examples:
    targets = own_targets(model, info, SHA256)
    candidates = load_candidates(wanted(count, data), info, len(targets))
    return Examples.model_validate(make_examples(wanted(count, data), candidates, targets, "my pictures"))


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


@pytest.mark.usefixtures("few_steps")
def test_examples_of_a_network_with_a_block(
    bundled: tuple[SelfGradientNetwork, CheckpointInfo], data: Path, project_root: Path
) -> None:
    model, info = bundled
    content = made(model, info, 6, data)
    assert list(content.models) == ["block-on", "block-off"]
    assert [model.block for model in content.models.values()] == [True, False]
    assert (content.checkpoint_sha256, content.steps, content.right_of_all) == (SHA256, STEPS, None)
    assert len({example.label for example in content.examples}) == 6, "of each class in turn"
    originals = [np.asarray(Image.open(path)) for path in sorted((project_root / "examples").glob("*.png"))]
    states = {"block-on": 0, "block-off": 1}
    for example in content.examples:
        clean = pixels(example.png)
        assert any(np.array_equal(clean, original) for original in originals)
        for name, tampered in example.tampered.items():
            full = pixels(tampered.png)
            assert 1 < np.abs(full.astype(int) - clean).max() <= STEPS
            strengths = torch.from_numpy(np.stack([scaled(clean, full, strength, STEPS) for strength in (0, STEPS)]))
            images = strengths.permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                answers = [model(images), model.plain_logits(images)]
            for state, logits in zip(("block on", "block off"), answers, strict=True):
                recorded = [tampered.answers[state][strength] for strength in (0, STEPS)]
                assert [entry.label for entry in recorded] == logits.argmax(dim=1).tolist()
                probabilities = logits.softmax(dim=1).amax(dim=1).tolist()
                assert [entry.probability for entry in recorded] == pytest.approx(probabilities, abs=2e-4)
                assert recorded[0].label == example.label, "the network is right about the picture itself"
            assert tampered.fooled == (answers[states[name]][1].argmax().item() != example.label)
            assert len(tampered.answers["block on"]) == STEPS + 1
            assert tampered.recorded == {}
    assert {tampered.fooled for example in content.examples for tampered in example.tampered.values()} >= {True}


@pytest.mark.usefixtures("few_steps")
def test_examples_of_a_network_without_a_block_are_served(
    bundled: tuple[SelfGradientNetwork, CheckpointInfo], data: Path, tmp_path: Path
) -> None:
    model, info = bundled
    plain = SelfGradientNetwork(model.backbone, None, info.mean, info.std).eval()
    targets = own_targets(plain, replace(info, block=None), SHA256)
    assert [(name, target.title) for name, target in targets.items()] == [("block-off", "this model")]
    candidates = load_candidates(wanted(3, data), info, 1)
    content = make_examples(wanted(3, data), candidates, targets, "my pictures")
    description = replace(info, block=None).to_json()
    metadata = {METADATA_KEY: description, SHA256_KEY: SHA256}
    graph = save_tiny_graph(tmp_path / "m.onnx", (32, 32), block=False, metadata=metadata)
    assert write_examples(content, graph) == tmp_path / "m.examples.json"
    given = read_examples(read_graph(graph))
    assert (given.count, given.note) == (3, None)
    assert all(set(example["tampered"]["block-off"]["answers"]) == {"block off"} for example in content["examples"])


@pytest.mark.usefixtures("few_steps")
def test_one_that_fools_takes_the_last_place_where_none_does(
    bundled: tuple[SelfGradientNetwork, CheckpointInfo], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack works on the third picture that it is given, and on no other before."""
    model, info = bundled
    seen = []
    attack = examples.perturb

    def works_late(target, clean, labels, eps):
        full, names = attack(target, clean, labels, eps)
        for index in range(len(labels)):
            seen.append(clean[index].tobytes())
            if len(set(seen)) <= 2:
                full[index] = clean[index]
        return full, names

    monkeypatch.setattr(examples, "perturb", works_late)
    targets = {"block-on": own_targets(model, info, SHA256)["block-on"]}
    candidates = load_candidates(wanted(2, data), info, 1)
    content = make_examples(wanted(2, data), candidates, targets, "my pictures")
    first, last = content["examples"]
    assert not first["tampered"]["block-on"]["fooled"]
    assert last["tampered"]["block-on"]["fooled"]


def test_a_network_that_is_never_right_has_no_examples(
    bundled: tuple[SelfGradientNetwork, CheckpointInfo], data: Path
) -> None:
    model, info = bundled
    targets = own_targets(model, info, SHA256)
    candidates = load_candidates(wanted(1, data), info, 2)
    with torch.no_grad():
        right = model.plain_logits(candidates.images.float() / 255).argmax(dim=1)
    wrong = replace(candidates, labels=(right + 1) % 10)
    with pytest.raises(ExamplesError, match=r"classifies none of \d+ pictures rightly"):
        make_examples(wanted(1, data), wrong, targets, "my pictures")


def test_the_size_is_bounded_before_anything_is_loaded(
    bundled: tuple[SelfGradientNetwork, CheckpointInfo], tmp_path: Path
) -> None:
    _, info = bundled
    large = replace(info, image_size=(224, 224))
    with pytest.raises(
        ExamplesError, match=r"--examples 20: .* 224x224 take too many bytes; take at most --examples \d+"
    ):
        load_candidates(wanted(20, tmp_path), large, 2)
    with pytest.raises(ExamplesError, match="leave --examples out"):
        load_candidates(wanted(1, tmp_path), replace(info, image_size=(2000, 2000)), 2)
    with pytest.raises(ExamplesError, match="pass --dataset"):
        load_candidates(wanted(1, tmp_path), replace(info, recipe={}), 2)


def test_the_largest_pictures_stay_within_the_bound() -> None:
    """Noise is the worst that a PNG file can hold."""
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert len(examples.png(noise)) <= 224 * 224 * 3 * examples._LARGEST_SHARE * 4 / 3


def test_whole_steps_of_an_epsilon() -> None:
    assert [steps_of(eps) for eps in (8 / 255, 0.031, 1 / 255, 4.7 / 255)] == [8, 7, 1, 4]
    with pytest.raises(ExamplesError, match="less than 1/255"):
        steps_of(0.5 / 255)


def test_the_first_of_each_class_come_first() -> None:
    assert in_turn([0, 0, 1, 2, 1, 0]) == [0, 2, 3, 1, 4, 5]


def test_scaling_stays_within_the_strength() -> None:
    clean = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    rng = np.random.default_rng(0)
    full = np.clip(clean + rng.integers(-STEPS, STEPS + 1, clean.shape), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(scaled(clean, full, 0, STEPS), clean)
    np.testing.assert_array_equal(scaled(clean, full, STEPS, STEPS), full)
    before = np.zeros(clean.shape)
    for strength in range(STEPS + 1):
        size = np.abs(scaled(clean, full, strength, STEPS).astype(int) - clean)
        assert size.max() <= strength
        assert (size >= before).all()
        before = size
    one = np.array([100], np.uint8)
    up = [int(scaled(one, np.array([104], np.uint8), strength, STEPS)[0]) for strength in (1, 2, 3)]
    down = [int(scaled(one, np.array([96], np.uint8), strength, STEPS)[0]) for strength in (1, 2, 3)]
    assert (up, down) == ([101, 101, 102], [99, 99, 98])
