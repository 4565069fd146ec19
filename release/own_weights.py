"""Go the way of somebody with a file of RobustBench's format, and keep what each command costs.

    python -m release.own_weights --work /tmp/own-weights

It writes the state dict of a WideResNet-28-10 with random weights, under the names and in the wrapping that
RobustBench's files have. Then it runs the two documented commands, convert and export, serves the graph, and asks it
for the class of the example pictures. The answers are compared with those of the module that the file was written from.
results/own_weights.json gets the sizes, the time of each command and the agreement.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command_line import ROOT, add_out, command_parser, write_result
from benchmarks.provenance import commit, processor, versions
from release import own_folder
from release.own_folder import FIX, OwnFolderError, Step, stopwatch
from sgn_serve.common.error_text import say, system_errors_as
from sgn_serve.common.markdown import table
from sgn_serve.pictures.files import read_rgb
from training.common import run_files
from training.common.errors import TrainingError
from training.common.files import check_writable
from training.data.class_names import CIFAR10_CLASSES

RESULT = ROOT / "results" / "own_weights.json"
EXAMPLES = ROOT / "examples"
SIDE = 32
"""Side in pixels of the pictures that such networks take."""
WEIGHTS, CHECKPOINT, GRAPH = "wrn-28-10.pt", run_files.CHECKPOINT, "model.onnx"
COMMANDS = {
    "convert": ("convert", "--weights", WEIGHTS, "--classes", "cifar10", "--out", CHECKPOINT),
    "export": ("export", "--ckpt", CHECKPOINT, "--onnx", GRAPH),
}
"""The arguments of `sgn` for each step, by its name."""
SAME = 1e-4
"""Largest difference of a probability that counts as the same."""


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        started = F.relu(self.bn1(features))
        inner = self.conv2(F.relu(self.bn2(self.conv1(started))))
        return inner + (features if self.convShortcut is None else self.convShortcut(started))


class _Group(nn.Module):
    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int):
        super().__init__()
        rest = [_Block(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(_Block(inputs, outputs, stride), *rest)


class RobustBenchWideResNet(nn.Module):
    """A wide residual network whose tensors have RobustBench's names, with random weights.

    Source: robustbench/model_zoo/architectures/wide_resnet.py, https://github.com/RobustBench/robustbench.

    Args:
        depth: Number of convolutions and the linear layer.
        width: Factor of the channels.
    """

    def __init__(self, depth: int = 28, width: int = 10):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = _Group(blocks, 16, 16 * width, 1)
        self.block2 = _Group(blocks, 16 * width, 32 * width, 2)
        self.block3 = _Group(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, len(CIFAR10_CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) in [0, 1] to logits."""
        features = self.conv1(images)
        for group in (self.block1, self.block2, self.block3):
            features = group.layer(features)
        return self.fc(F.relu(self.bn1(features)).mean(dim=(2, 3)))


def random_network(images: Tensor, depth: int = 28, width: int = 10) -> RobustBenchWideResNet:
    """Return a network with random weights that tells these images apart, in eval mode.

    Batch norm takes its statistics from the images, and the last layer no class by preference. Otherwise random weights
    give every picture the same answer.
    """
    torch.manual_seed(0)
    network = RobustBenchWideResNet(depth, width)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all images that were seen
    with torch.no_grad():
        network.train()(images)
        network.eval()
        logits = network(images)
        network.fc.weight.div_(logits.std())
        network.fc.bias.sub_(logits.mean(0)).div_(logits.std())
    return network


@system_errors_as(OwnFolderError, FIX)
def go(
    work: Path, pictures: Sequence[Path], size: tuple[int, int] = (28, 10), told: Callable[[Step], None] = print
) -> dict[str, Any]:
    """Go the whole way in a folder, and return the steps, the sizes and the agreement.

    Args:
        work: The folder.
        pictures: Files that the service is asked about.
        size: Depth and width of the network.
        told: Gets each step when it is done.

    Raises:
        OwnFolderError: A command failed; it has printed why.
    """
    work.mkdir(parents=True, exist_ok=True)
    images = torch.stack([torch.tensor(read_rgb(path, (SIDE, SIDE))).permute(2, 0, 1) for path in pictures])
    images = images.float() / 255
    network = random_network(images, *size)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 100, "state_dict": state}, work / WEIGHTS)
    with torch.no_grad():
        expected = network(images).softmax(1)
    steps: list[Step] = []
    measured = stopwatch(steps, told)
    for name, arguments in COMMANDS.items():
        measured(name, f"sgn {shlex.join(arguments)}", partial(own_folder.run_sgn, work, *arguments))

    def ask() -> list[dict[str, Any]]:
        with own_folder.service(work, GRAPH) as client:
            return [answered(client, path) for path in pictures]

    answers = measured("serve and classify", f"sgn serve --model {GRAPH}", ask)
    served = torch.tensor([[answer["probabilities"][name] for name in CIFAR10_CLASSES] for answer in answers])
    difference = (served - expected).abs().amax(1)
    return {
        "architecture": f"wrn-{size[0]}-{size[1]}",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "megabytes": {name: round((work / name).stat().st_size / 1e6, 1) for name in (WEIGHTS, CHECKPOINT, GRAPH)},
        "steps": [asdict(step) for step in steps],
        "pictures": len(pictures),
        "classes_answered": len(set(expected.argmax(1).tolist())),
        "same_class": int((served.argmax(1) == expected.argmax(1)).sum()),
        "same_probabilities": int((difference < SAME).sum()),
        "largest_difference": float(f"{float(difference.max()):.2g}"),
        "self_gradient": sorted({answer["self_gradient"] for answer in answers}),
    }


def answered(client: httpx.Client, path: Path) -> dict[str, Any]:
    """Return an answer of the service, with every class's probability by its name.

    Raises:
        OwnFolderError: It refuses the picture.
    """
    answer = own_folder.classified(client, path, top_k=str(len(CIFAR10_CLASSES)))
    return {**answer, "probabilities": {item["label"]: item["probability"] for item in answer["top_k"]}}


def steps_table(result: Mapping[str, Any]) -> str:
    """Return the steps with their time as Markdown."""
    lines = [
        [f"`{step['command']}`", f"{step['seconds']:.0f}", f"{step['core_seconds']:.0f}"] for step in result["steps"]
    ]
    return table(["command", "seconds", "seconds of one core"], lines, "lrr")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("release.own_weights", __doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new folder for the file, the checkpoint, the graph")
    parser.add_argument("--pictures", type=int, default=20, help="example pictures to ask about (default: %(default)s)")
    add_out(parser, RESULT)
    options = parser.parse_args(arguments)
    # The files of a class follow each other, so every n-th is taken.
    paths = sorted(EXAMPLES.glob("*.png"))
    chosen = paths[:: max(1, len(paths) // options.pictures)][: options.pictures]
    try:
        check_writable(options.out)
        result = go(options.work, chosen, told=lambda step: say(str(step)))
        about = {
            "command": "python -m release.own_weights --work own-weights",
            "versions": versions(("torch", "onnxruntime")),
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[2], 1),
            "git_commit": commit(),
        }
        write_result(options.out, about | result)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    print(steps_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
