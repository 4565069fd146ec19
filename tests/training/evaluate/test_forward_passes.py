import io

import torch
from torch import nn
from tqdm import tqdm

from training.attacks import gradient_attack
from training.evaluate.forward_passes import passes_shown
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork


def test_the_bar_lives_while_a_batch_is_attacked():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = SelfGradientNetwork(nn.Sequential(*layers), SelfGradientBlock(scale=8 / 255)).eval()
    output = io.StringIO()
    attack = gradient_attack.pgd_attack(5)
    images = torch.rand(2, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    with tqdm(total=2, file=output, mininterval=0) as bar, passes_shown(model.backbone, bar):
        attack.perturb(model, images, labels, 1e-6)  # no picture falls under it and ends its attack
        assert bar.n == 0
        assert "5 forward passes" in output.getvalue()
    shown = output.getvalue()
    model(torch.rand(1, 3, 8, 8))
    assert output.getvalue() == shown


def test_a_log_is_not_flooded():
    output = io.StringIO()
    layer = nn.Identity()
    with tqdm(total=2, file=output, mininterval=60) as bar, passes_shown(layer, bar):
        for _ in range(100):
            layer(torch.zeros(1))
        assert "passes" not in output.getvalue()
