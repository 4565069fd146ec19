"""Train, judge and export on the processor and, where there is one, on a GPU, whose kernels are others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.small_backbone import SmallBackbone
from tests.training.tiny_run import arguments, rows
from training.attacks.auto_attack import GradientStage
from training.attacks.registry import build_attacks
from training.checkpoint import load_checkpoint
from training.command import main
from training.evaluate import judge, judging
from training.networks.defences.build import DEFENCES, build_defence
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork
from training.networks.wide_resnet import WideResNet

pytestmark = pytest.mark.usefixtures("short_attacks")

BLOCK = ("--method=self-gradient", "--plain-loss-share=0.3")
TRAININGS = {
    "standard": ("--method=standard", "--cutmix=0.5", "--cutout=3"),
    "pgd": ("--method=pgd", "--attack-steps=2", "--weight-perturbation=0.005", "--gradient-alignment=0.2"),
    "bilateral": ("--method=bilateral",),
    "trades": ("--method=trades",),
    "held": (*BLOCK, "--attack-view=held", "--ema-decay=0.9"),
    "smooth": (*BLOCK, "--attack-view=smooth", "--gradient-alignment=0.2"),
    "full": (*BLOCK, "--attack-view=full", "--activation=silu", "--weight-perturbation=0.005"),
    "gradient-denoiser": ("--method=gradient-denoiser", "--ema-decay=0.9"),
    "gradient-oracle": ("--method=gradient-oracle",),
}
"""Every method, and each way in which its loss is differentiated."""
NOTHING_DRAWN = {
    name: (
        "--no-flip",
        "--crop-padding=0",
        *(("--attack-start=image",) if name not in ("standard", "bilateral", "trades") else ()),
    )
    for name in TRAININGS
}
"""Options by which devices, whose random numbers differ, train alike. Two methods draw their starts all the same."""
QUICK = ("quick", "straight-through", "averaged", "averaged-smooth", "transfer", "apgd-ce", "smooth-apgd-ce", "noise")


def train(picture_folder: Path, run: str, *options: str, epochs: int = 1) -> None:
    assert main(arguments(picture_folder, run, *options, epochs=epochs)) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAININGS)
def test_a_gpu_trains_as_the_processor_does(picture_folder, runs, name):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    options = (*TRAININGS[name], *NOTHING_DRAWN[name])
    for device in ("cpu", "cuda"):
        train(picture_folder, device, *options, f"--device={device}")
    on_cpu, on_gpu = (float(rows(runs / device)[0]["train_loss"]) for device in ("cpu", "cuda"))
    assert on_gpu == pytest.approx(on_cpu, rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", TRAININGS)
def test_every_method_trains_and_resumes_on_a_gpu(picture_folder, runs, name, precision):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    options = (*TRAININGS[name], "--device=cuda", f"--precision={precision}")
    train(picture_folder, "run", *options)
    train(picture_folder, "run", *options, "--resume", epochs=2)
    assert [row["epoch"] for row in rows(runs / "run")] == ["1", "2"]
    network, _ = load_checkpoint(runs / "run" / "model.safetensors")
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_block_alone_trains(device, picture_folder, runs):
    train(picture_folder, "plain", "--method=standard", f"--device={device}")
    start = f"--init-from={runs / 'plain' / 'model.safetensors'}"
    train(picture_folder, "block", start, "--freeze-backbone", f"--device={device}")
    before, after = (load_checkpoint(runs / name / "model.safetensors")[0] for name in ("plain", "block"))
    for name, value in before.backbone.state_dict().items():
        assert torch.equal(after.backbone.state_dict()[name], value), name


@pytest.fixture
def short_stages(monkeypatch):
    """Give AutoAttack's stages ten steps: another device computes each of them alike."""

    def short(attack):
        return replace(attack, iterations=10) if isinstance(attack, GradientStage) else attack

    monkeypatch.setattr(judging, "build_attacks", lambda *given: [short(attack) for attack in build_attacks(*given)])


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_is_attacked(device, name, short_stages):
    torch.manual_seed(0)
    defence = build_defence(DEFENCES[name], SmallBackbone(5), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (16, 16)).eval()
    images = torch.rand(6, 3, 16, 16)
    with torch.no_grad():
        labels = defence(images).argmax(dim=1)  # all are right, so that all are attacked
    attacks = ("fgsm", "straight-through", "transfer", "apgd-ce", "smooth-apgd-ce")
    judged = judge(defence.to(device), images, labels, eps=2 / 255, attacks=attacks, beta=[20.0], progress=False)
    assert 0 <= judged.lowest <= 1
    with torch.no_grad():
        assert defence(images.to(device)).isfinite().all()


def test_the_judge_attacks(device, short_stages):
    torch.manual_seed(0)
    network = SelfGradientNetwork(WideResNet(10, 1, num_classes=5), SelfGradientBlock(gradient_scaling="rms")).eval()
    images = torch.rand(6, 3, 16, 16)
    labels = torch.arange(6) % 5
    judged = judge(network.to(device), images, labels, eps=2 / 255, attacks=QUICK, beta=[20.0], progress=False)
    assert len(judged.rows) > 2 * len(QUICK)
    assert judged.lowest <= min(row.right.float().mean() for row in judged.rows.values()) <= 1
    assert next(network.parameters()).device.type == device.type
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    assert judged.report.about["device"] == name
    assert judged.report.measured["batch_dependence"] < 1e-5
