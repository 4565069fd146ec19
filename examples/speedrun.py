"""Train a robust CIFAR-10 classifier on a CPU, in one file that reads from top to bottom.

    python examples/speedrun.py data          # data/train/<class>/<picture>, all of one size

It needs PyTorch, NumPy and Pillow. The network is a WRN-16-2. Every step attacks its batch once, from strong noise
(N-FGSM), and learns to answer rightly all the same. The weights' moving average is the network that is kept. The
schedule ends after MINUTES of processor time, so other work on the machine changes nothing but the wait.

It is this recipe of the package, and a test shows that both compute the same:

    python -m training --dataset image-folder --data-root data --arch wrn-16-2 --method pgd --attack n-fgsm \
        --ema-decay 0.999 --label-smoothing 0.1 --lr-schedule cyclic --lr 0.2 --crop-padding 2 \
        --minutes 180 --minutes-of core --threads 1

The package validates after every epoch, within its minutes, and keeps the best epoch; this file keeps the last one.
`python -m release.speedrun` compares recipes, and judges by stronger attacks than the PGD-10 at the end of this file.
"""

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

MINUTES = 180.0  # processor time, all threads together
THREADS = 1
BF16 = hasattr(torch.cpu, "_is_avx512_bf16_supported") and torch.cpu._is_avx512_bf16_supported()
SEED = 0

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # other files are left out
DEPTH, WIDTH = 16, 2
BATCH = 128
PEAK_LR, WARMUP = 0.2, 0.2  # the learning rate rises to its peak in a fifth of the time, then falls to 0
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
PADDING = 2  # crops are drawn from pictures with so many pixels of black border
EPS = 8 / 255  # budget of the attack, in units of pixel intensity
NOISE = 2 * EPS  # the attack starts at uniform noise of this size: de Jorge et al., Make Some Noise (2022)
SMOOTHING = 0.1  # share of the label that all classes divide
AVERAGING = 0.999  # share of the average that a step keeps, once it is warm

# ----------------------------------------------------------------------------------------------------------------------
# Pictures: uint8 (N, 3, H, W) in memory. A part is held out to look at the result.


def read_pictures(folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return the pictures, their labels and the names of the classes, in alphabetical order."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
            labels.append(label)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), names


def split(labels: torch.Tensor, held_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices to train on and those held out: the same number of each class, by a seeded shuffle."""
    classes = int(labels.max()) + 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        out[order[labels[order] == label][: held_out // classes + (label < held_out % classes)]] = True
    return order[~out[order]], order[out[order]]


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Return a random crop of each zero-padded picture, half of them mirrored."""
    count, _, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    rows = torch.randint(2 * PADDING + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * PADDING + 1, (count, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def in_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Return float32 pictures in [0, 1], with the channels last in memory, as convolutions on a CPU want them."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


# ----------------------------------------------------------------------------------------------------------------------
# The network: Zagoruyko and Komodakis, Wide Residual Networks (2016).


class Block(nn.Module):
    """Two convolutions, each after batch norm and ReLU, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the next features."""
        active = F.relu(self.norm1(features))
        beside = features if self.shortcut is None else self.shortcut(active)
        return beside + self.conv2(F.relu(self.norm2(self.conv1(active))))


class WideResNet(nn.Module):
    """Map pictures in [0, 1] to logits. Mean and deviation of the training pictures are part of it."""

    def __init__(self, classes: int, mean: list[float], std: list[float]):
        super().__init__()
        channels = 16
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        groups = []
        for outputs, stride in ((16 * WIDTH, 1), (32 * WIDTH, 2), (64 * WIDTH, 2)):
            blocks = []
            for index in range((DEPTH - 4) // 6):
                blocks.append(Block(channels, outputs, stride if index == 0 else 1))
                channels = outputs
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of pictures in [0, 1]."""
        features = self.groups(self.stem((images - self.mean) / self.std))
        return self.classifier(F.relu(self.norm(features)).mean(dim=(2, 3)))


def statistics(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, of intensities in [0, 1]."""
    levels = torch.arange(256, dtype=torch.double) / 255
    means, stds = [], []
    for channel in images.transpose(0, 1).flatten(1):
        shares = torch.bincount(channel, minlength=256).double() / channel.numel()
        mean = (shares * levels).sum()
        means.append(round(mean.item(), 4))
        stds.append(round(((shares * levels**2).sum() - mean**2).sqrt().item(), 4))
    return means, stds


# ----------------------------------------------------------------------------------------------------------------------
# A step: attack the batch once, learn from what came out, and let the average follow.


def tracking(network: nn.Module, on: bool) -> None:
    """Let batch norm follow the pictures that are trained on, and not those that the attack looks at."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = on


def attacked(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the pictures after N-FGSM: noise, then one step that raises the loss. Nothing is projected back."""
    noisy = (images + torch.empty_like(images).uniform_(-NOISE, NOISE)).requires_grad_()
    loss = F.cross_entropy(network(noisy).float(), labels, reduction="none").sum()
    (gradient,) = torch.autograd.grad(loss, noisy)
    return (noisy.detach() + EPS * gradient.sign()).clamp(0, 1)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Do one step, and return its loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
        tracking(network, on=False)
        harder = attacked(network, images, labels)
        tracking(network, on=True)
        loss = F.cross_entropy(network(harder).float(), labels, label_smoothing=SMOOTHING)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, steps: int) -> None:
    """Move the average towards the network after so many steps. At first it keeps less, to forget the random start."""
    kept = min(AVERAGING, (1 + steps) / (10 + steps))
    for mean, current in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.copy_(mean.lerp(current, 1 - kept))
        else:
            mean.copy_(current)


def learning_rate(share: float) -> float:
    """Return the learning rate when this share of the training is done."""
    return PEAK_LR * share / WARMUP if share < WARMUP else PEAK_LR * max(0.0, 1 - share) / (1 - WARMUP)


def train(images: torch.Tensor, labels: torch.Tensor, classes: int, epochs: int = 0) -> nn.Module:
    """Return the trained network.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N).
        classes: How many classes there are.
        epochs: Passes over the pictures. 0 trains for MINUTES instead.
    """
    if len(images) < BATCH:
        raise SystemExit(f"{len(images)} training pictures do not fill a batch of {BATCH}; lower BATCH in this file")
    torch.manual_seed(SEED)
    network = WideResNet(classes, *statistics(images)).to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(network)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=PEAK_LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    began, epoch, steps, share = time.process_time(), 0, 0, 0.0
    while share < 1:
        torch.manual_seed(SEED * 1_000_003 + epoch + 1)
        order, losses = torch.randperm(len(images)), []
        batches = [order[first : first + BATCH] for first in range(0, len(order) - BATCH + 1, BATCH)]
        for index, chosen in enumerate(batches):
            done = (epoch + index / len(batches)) / epochs if epochs else 0.0
            share = done if epochs else min(1.0, (time.process_time() - began) / (60 * MINUTES))
            if share >= 1:
                break
            optimizer.param_groups[0]["lr"] = learning_rate(share)
            losses.append(step(network, optimizer, in_unit_range(augmented(images[chosen])), labels[chosen]))
            steps += 1
            follow(average, network, steps)
        epoch += 1
        share = epoch / epochs if epochs else share
        print(f"epoch {epoch}: {100 * share:.0f} % done, loss {sum(losses) / max(1, len(losses)):.3f}", flush=True)
    return average.eval()


# ----------------------------------------------------------------------------------------------------------------------
# A first look at the result. It takes stronger attacks to know what a network withstands.


def withstood(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Return the share of pictures that are right after PGD with steps of 2/255; 0 steps leave them as they are."""
    torch.manual_seed(SEED)
    low, high = (images - EPS).clamp(min=0), (images + EPS).clamp(max=1)
    current = torch.clamp(images + torch.empty_like(images).uniform_(-EPS, EPS), low, high) if steps else images
    for _ in range(steps):
        current.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(current), labels), current)
        current = torch.clamp(current.detach() + 2 / 255 * gradient.sign(), low, high)
    with torch.no_grad():
        return (network(current).argmax(dim=1) == labels).float().mean().item()


def main() -> None:
    """Train on a folder, look at the result, and write speedrun.pt."""
    if len(sys.argv) != 2 or not Path(sys.argv[1], "train").is_dir():
        raise SystemExit("usage: python examples/speedrun.py FOLDER, where FOLDER/train/<class>/ holds the pictures")
    torch.set_num_threads(THREADS)
    images, labels, names = read_pictures(Path(sys.argv[1], "train"))
    rest, held_out = split(labels, min(2000, round(0.1 * len(labels))))
    network = train(images[rest], labels[rest], len(names))
    few = held_out[:500]
    shown, right = in_unit_range(images[few]), labels[few]
    for steps, what in ((0, "clean"), (10, "PGD-10")):
        print(f"{what}: {100 * withstood(network, shown, right, steps):.1f} % of {len(few)} held-out pictures")
    torch.save({"weights": network.state_dict(), "classes": names}, "speedrun.pt")


if __name__ == "__main__":
    main()
