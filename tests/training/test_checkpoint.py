import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sgn_serve.common.graph_format import METADATA_KEY
from tests.training.checkpoints import tiny_info
from training.checkpoint import (
    CHECKSUM_KEY,
    BlockConfig,
    CheckpointError,
    CheckpointInfo,
    build_model,
    load_checkpoint,
    save_checkpoint,
)


@pytest.fixture
def info():
    return tiny_info(class_names=("cat", "dog", "ship"), dataset="a test", seed=3, recipe={"lr": 0.1})


@pytest.fixture
def saved(info, tmp_path):
    model = build_model(info).to(memory_format=torch.channels_last)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), info)
    return path, model.eval()


@pytest.mark.parametrize("block", [True, False])
def test_round_trip(info, block, tmp_path):
    if not block:
        info = replace(info, block=None)
    model = build_model(info).eval()
    path = tmp_path / "new" / "model.safetensors"
    save_checkpoint(path, model.state_dict(), info)
    loaded, loaded_info = load_checkpoint(path)
    assert loaded_info == info
    assert not loaded.training
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), model(images))
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_a_state_dict_with_its_description_beside_it(saved, info):
    path, model = saved
    torch.save(model.state_dict(), path.with_name("weights.pt"))
    path.with_name("weights.json").write_text(info.to_json())
    loaded, loaded_info = load_checkpoint(path.with_name("weights.pt"))
    assert loaded_info == info
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), model(images))


class Harmful:
    def __reduce__(self):
        return (print, ("unpickled!",))


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "--ckpt" in message


def test_foreign_files_are_refused_in_one_line(saved, tmp_path, capsys):
    _, model = saved
    refused(tmp_path / "nothing.safetensors", "no such file")
    refused(tmp_path, "a folder, not a file")
    (tmp_path / "graph.onnx").write_bytes(b"")
    refused(tmp_path / "graph.onnx", "an exported graph, not a checkpoint")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(tmp_path / "text.safetensors", "not a safetensors file")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    refused(tmp_path / "foreign.safetensors", "without this project's metadata")
    torch.save(model.state_dict(), tmp_path / "alone.pt")
    refused(tmp_path / "alone.pt", "description beside it")
    torch.save({"model": Harmful()}, tmp_path / "harmful.pt")
    (tmp_path / "harmful.json").write_text("{}")
    refused(tmp_path / "harmful.pt", "not a plain state dict")
    assert "unpickled" not in capsys.readouterr().out


def test_the_activation_is_rebuilt(info, tmp_path):
    info = replace(info, activation="silu")
    model = build_model(info).eval()
    assert any(isinstance(module, torch.nn.SiLU) for module in model.modules())
    save_checkpoint(tmp_path / "smooth.safetensors", model.state_dict(), info)
    loaded, loaded_info = load_checkpoint(tmp_path / "smooth.safetensors")
    assert loaded_info == info
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_loading_is_strict_about_weights(saved, info, change):
    path, _ = saved
    state = load_file(path)
    if change == "missing":
        del state["backbone.norm.weight"]
    elif change == "extra":
        state["backbone.more"] = torch.zeros(1)
    else:
        state["backbone.classifier.bias"] = torch.zeros(4)
    save_checkpoint(path, state, info)
    refused(path, "do not fit the wrn-10-1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "self-gradient-checkpoint/9"}, "does not say format"),
        ({"more": 1}, r"other fields.*more"),
        ({"mean": 0.5}, "mean is no list"),
        ({"block": {"layers": 5}}, r"block does not have the fields.*scale"),
        ({"block": {"layers": 0, "scale": 1.0, "gradient_scaling": "rms"}}, "at least one layer"),
        ({"block": {"layers": "five", "scale": 1.0, "gradient_scaling": "rms"}}, "cannot be built"),
        ({"architecture": "vgg-16"}, "unknown architecture"),
        ({"activation": "tanh"}, "unknown activation"),
        ({"architecture": "wrn-10-1000000"}, "64000000 channels, and the file's tensors at most 64"),
        ({"architecture": "wrn-1000000-1"}, "1000000 layers deep, and the file holds"),
        ({"architecture": "wrn-10--1"}, "unknown architecture"),
        ({"architecture": "wrn-10-" + "9" * 5000}, "architecture is no text of at most 200"),
        ({"architecture": 7}, "architecture is no text"),
        ({"block": {"layers": 10**6, "scale": 1.0, "gradient_scaling": "rms"}}, "a block of 1000000 layers"),
        ({"block": {"layers": -1, "scale": 1.0, "gradient_scaling": "rms"}}, "at least one layer"),
        ({"block": {"layers": 5, "scale": float("nan"), "gradient_scaling": "rms"}}, "no finite number"),
        ({"image_size": [10**6, 10**6]}, "from 1 to 4096"),
        ({"image_size": [-32, 32]}, "from 1 to 4096"),
        ({"image_size": [32.5, 32]}, "whole numbers of pixels"),
        ({"image_size": [32]}, "two whole numbers"),
        ({"class_names": ["cat", "\ud800", "ship"]}, "no list of texts"),
        ({"class_names": ["cat", 7, "ship"]}, "no list of texts"),
        ({"class_names": []}, "no list of texts"),
        ({"mean": [float("nan"), 0.5, 0.5]}, "mean holds something else"),
        ({"std": [0.2, 0.2]}, "different lengths"),
    ],
)
def test_loading_is_strict_about_the_description(saved, info, change, match):
    path, model = saved
    torch.save(model.state_dict(), path.with_name("weights.pt"))
    path.with_name("weights.json").write_text(json.dumps(json.loads(info.to_json()) | change))
    refused(path.with_name("weights.pt"), match)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved, info, value):
    path, _ = saved
    state = load_file(path)
    state["backbone.norm.weight"][3] = value
    save_checkpoint(path, state, info)
    refused(path, r"not finite \(backbone.norm.weight holds NaN or infinity\)")


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"{", "its description is not JSON"), (b"[]", "does not say format"), (b"\xff", "weights.json: not readable")],
)
def test_a_description_that_is_not_ours_is_refused(saved, content, match):
    path, model = saved
    torch.save(model.state_dict(), path.with_name("weights.pt"))
    path.with_name("weights.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path.with_name("weights.pt"))


def test_a_description_without_a_field_is_refused(saved, info):
    path, model = saved
    description = json.loads(info.to_json())
    del description["activation"]
    torch.save(model.state_dict(), path.with_name("weights.pt"))
    path.with_name("weights.json").write_text(json.dumps(description))
    refused(path.with_name("weights.pt"), r"other fields.*activation")


def test_the_bundled_checkpoint_is_read(project_root):
    model, info = load_checkpoint(project_root / "sgn_serve" / "bundled" / "model.safetensors")
    assert info.architecture == "wrn-16-2"
    assert info.block == BlockConfig(5, 4 / 255, "rms")
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_the_threshold_of_auto_is_kept(info, tmp_path):
    changed = replace(info, auto_margin=0.08)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build_model(changed).state_dict(), changed)
    model, loaded = load_checkpoint(path)
    assert loaded == changed
    assert model.auto_margin == 0.08
    description = json.loads(info.to_json())
    assert "auto_margin" not in description
    assert CheckpointInfo.from_json(json.dumps(description)).auto_margin is None
    for wrong in (1.5, -0.1, "0.1", True, float("nan")):
        with pytest.raises(CheckpointError, match=r"auto_margin is .*, not a number from 0 to 1"):
            CheckpointInfo.from_json(json.dumps(description | {"auto_margin": wrong}))


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_how_pictures_are_resized_is_kept(info, resize):
    changed = replace(info, resize=resize)
    assert CheckpointInfo.from_json(changed.to_json()) == changed
    assert json.loads(changed.to_json())["resize"] == resize


def test_stretching_is_not_written_and_is_what_older_files_mean(info):
    description = json.loads(info.to_json())
    assert "resize" not in description
    assert CheckpointInfo.from_json(json.dumps(description)).resize == "stretch"
    with pytest.raises(CheckpointError, match="resize is 'squeeze'; known are: stretch, crop, pad"):
        CheckpointInfo.from_json(json.dumps(description | {"resize": "squeeze"}))


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def same_network(path: Path, model: torch.nn.Module, info: CheckpointInfo) -> bool:
    loaded, loaded_info = load_checkpoint(path)
    return loaded_info == info and all(
        torch.equal(value, other)
        for value, other in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_no_flipped_bit_gives_another_network(saved, info):
    """Some bits are nobody's, such as those of the checksum's name; the others are noticed, wherever they are."""
    path, model = saved
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    bits = [draw.randrange(64, 8 * header) for _ in range(60)] + [
        draw.randrange(8 * header, 8 * len(content)) for _ in range(60)
    ]
    refused = 0
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        message = ""
        try:
            assert same_network(path, model, info), bit
        except CheckpointError as error:
            message = str(error)
        assert "\n" not in message
        refused += bool(message)
        if bit >= 8 * header:
            assert "model.safetensors: damaged: its contents are not those of its checksum; restore" in message
    assert refused > 110


def test_a_flipped_bit_of_a_state_dict_is_noticed(saved, info):
    path, model = saved
    weights = path.with_name("weights.pt")
    path.with_name("weights.json").write_text(info.to_json())
    torch.save(model.state_dict(), weights)
    content = weights.read_bytes()
    values = model.backbone.classifier.weight.detach().numpy().tobytes()
    weights.write_bytes(flipped(content, 8 * content.index(values) + 77))
    with pytest.raises(CheckpointError, match=r"weights\.pt: damaged: its .*data/.* is not that of its checksum"):
        load_checkpoint(weights)


def test_a_file_without_a_checksum_is_read_as_the_bundled_one_is(saved, info):
    path, model = saved
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {METADATA_KEY, CHECKSUM_KEY}
    save_file(load_file(path), path, metadata={METADATA_KEY: metadata[METADATA_KEY]})
    assert same_network(path, model, info)


def test_the_same_network_gives_the_same_file_in_every_process(saved, info, tmp_path):
    path, _ = saved
    program = (
        "import sys; from pathlib import Path; from training.checkpoint import *\n"
        "model, info = load_checkpoint(Path(sys.argv[1]))\n"
        "save_checkpoint(Path(sys.argv[2]), model.state_dict(), info)"
    )
    subprocess.run([sys.executable, "-c", program, path, tmp_path / "again"], check=True)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
