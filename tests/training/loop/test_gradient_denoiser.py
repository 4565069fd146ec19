"""Whole trainings of a gradient denoiser, with and without an attack."""

import pytest
import torch

from tests.training.tiny_run import arguments, rows
from training.checkpoint import load_checkpoint
from training.command import main
from training.defend import main as defend
from training.networks.defences.gradient_denoiser import GradientDenoiser

pytestmark = pytest.mark.usefixtures("short_attacks")
METHOD = ("--method=gradient-denoiser", "--noise-deviation=20/255", "--denoising-weight=2")


def test_it_starts_from_an_attacked_network_and_its_checkpoint_takes_the_defence(picture_folder, runs, tmp_path):
    assert main(arguments(picture_folder, "robust", "--method=pgd", "--attack-steps=1", epochs=1)) == 0
    robust = runs / "robust" / "model.safetensors"
    assert main(arguments(picture_folder, "denoiser", *METHOD, f"--init-from={robust}", epochs=2)) == 0
    network, info = load_checkpoint(runs / "denoiser" / "model.safetensors")
    assert network.block is None
    assert (info.method, info.epsilon) == ("gradient-denoiser", 8 / 255)
    assert info.recipe["noise_deviation"] == pytest.approx(20 / 255)
    out = tmp_path / "defended.safetensors"
    command = ["--ckpt", str(runs / "denoiser" / "model.safetensors"), "--defence", "gradient-denoiser"]
    assert defend([*command, "--out", str(out)]) == 0
    defence, _ = load_checkpoint(out)
    assert isinstance(defence, GradientDenoiser)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(defence(images, self_gradient=False), network(images))


def test_without_an_attack_it_is_judged_by_clean_pictures(picture_folder, runs):
    assert main(arguments(picture_folder, "plain", *METHOD, "--epsilon=0", epochs=2)) == 0
    _, info = load_checkpoint(runs / "plain" / "model.safetensors")
    assert info.epsilon == 0
    clean = [float(row["val_clean"]) for row in rows(runs / "plain")]
    assert info.history["val_clean"] == max(clean)
