"""The command that puts a defence around a checkpoint, and the checkpoint that it writes."""

import json
from dataclasses import replace

import pytest
import torch

from tests.training.checkpoints import TINY, save_untrained, tiny_info
from training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, save_checkpoint
from training.defend import main
from training.networks.defences.build import DEFENCES, DefenceConfig


@pytest.fixture
def checkpoint(tmp_path):
    return save_untrained(tmp_path, tiny_info())


@pytest.mark.parametrize("name", DEFENCES)
def test_the_file_alone_rebuilds_the_defence(name, checkpoint, tmp_path, capsys):
    out = tmp_path / "defended.safetensors"
    assert main(["--ckpt", str(checkpoint), "--defence", name, "--out", str(out)]) == 0
    assert f"with the defence {name}" in capsys.readouterr().out
    (network, _), (defence, info) = load_checkpoint(checkpoint), load_checkpoint(out)
    assert info.defence == DEFENCES[name]
    assert info.block is None
    assert info.class_names == TINY.class_names
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(defence(images, self_gradient=False), network(images, self_gradient=False))
        assert not torch.allclose(defence(images), defence(images, self_gradient=False), atol=1e-5)


def test_size_and_steps_can_be_chosen(checkpoint, tmp_path):
    out = tmp_path / "defended.safetensors"
    command = ["--ckpt", str(checkpoint), "--defence", "anti-adversary", "--steps", "3", "--scale", "0.02"]
    assert main([*command, "--out", str(out)]) == 0
    assert load_checkpoint(out)[1].defence == DefenceConfig("anti-adversary", 3, 0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defence", "energy-step", "--steps", "2"], "takes one step"),
        (["--defence", "anti-adversary", "--steps", "0"], "from 1 to 64"),
        (["--defence", "anti-adversary", "--out", "defended.pt"], "is a .safetensors file"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(arguments, message, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--ckpt", str(checkpoint), "--out", "defended.safetensors", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "defended.safetensors").exists()


def test_a_checkpoint_without_a_defence_is_written_as_before():
    assert "defence" not in json.loads(TINY.to_json())


@pytest.mark.parametrize(
    ("defence", "message"),
    [
        ({"name": "moat", "steps": 1, "scale": 0.1}, "'moat' is none of anti-adversary"),
        ({"name": "energy-step", "steps": 1}, "does not have the fields"),
        ({"name": "energy-step", "steps": 10**6, "scale": 0.1}, "from 1 to 64"),
        ({"name": "energy-step", "steps": 1, "scale": "much"}, "no finite number"),
        ([], "does not have the fields"),
    ],
)
def test_a_description_of_no_defence_is_refused(defence, message):
    values = json.loads(tiny_info(block=None).to_json())
    with pytest.raises(CheckpointError, match=message):
        CheckpointInfo.from_json(json.dumps({**values, "defence": defence}))


def test_a_scale_may_be_a_fraction(checkpoint, tmp_path):
    out = tmp_path / "defended.safetensors"
    assert main([f"--ckpt={checkpoint}", "--defence=energy-step", "--scale=4/255", f"--out={out}"]) == 0
    assert load_checkpoint(out)[1].defence == replace(DEFENCES["energy-step"], scale=4 / 255)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "much"])
def test_a_scale_that_is_no_number_is_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt=x.safetensors", "--defence=energy-step", f"--scale={text}", "--out=y.safetensors"])
    assert f"error: argument --scale: {text!r} is not a number" in capsys.readouterr().err


def test_a_network_has_a_block_or_a_defence():
    values = json.loads(TINY.to_json())
    with pytest.raises(CheckpointError, match="both a block and a defence"):
        CheckpointInfo.from_json(json.dumps({**values, "defence": vars(DEFENCES["energy-step"])}))


def test_noise_of_another_size_than_described_is_refused_before_it_is_made(checkpoint, tmp_path):
    out = tmp_path / "defended.safetensors"
    assert main(["--ckpt", str(checkpoint), "--defence", "noise-average", "--out", str(out)]) == 0
    network, info = load_checkpoint(out)
    save_checkpoint(out, network.state_dict(), replace(info, image_size=(4096, 4096)))
    with pytest.raises(CheckpointError, match="which the file's tensor noise is not"):
        load_checkpoint(out)
