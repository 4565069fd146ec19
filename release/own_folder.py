"""Go the whole way of somebody with three folders of photos, and keep what each command costs.

    python -m release.own_folder --data-root data --work /tmp/own-folder

It makes the photos from CIFAR-10's pictures in class folders (<data-root>/train/<class>/*.jpg): those of three classes,
enlarged to sides between 100 and 400 pixels, as JPEG. The seven other classes give the network to start from, a state
dict as PyTorch writes it: its training is no part of the way. Then it trains, judges, exports and serves as the
tutorial says, and asks the service for the class of pictures that training has not seen. It goes this way twice: the
whole network is trained, then the block and the head alone. results/own_folder.json gets the commands with the time
and the processor time of each, and the figures.
"""

import json
import os
import random
import resource
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image

from benchmarks.command_line import ROOT, add_out, command_parser, thread_count, write_result
from benchmarks.provenance import commit, processor, versions
from sgn_serve.common.error_text import say, system_errors_as
from sgn_serve.common.markdown import table
from sgn_serve.http.paths import READY
from sgn_serve.pictures.files import SUFFIXES, read_rgb
from training.attacks.rows import RowId
from training.checkpoint import load_checkpoint
from training.common import run_files
from training.common.errors import TrainingError
from training.common.files import check_writable
from training.data.picture_folder import in_test_part

RESULT = ROOT / "results" / "own_folder.json"
CLASSES = ("automobile", "bird", "ship")
OTHERS = ("airplane", "cat", "deer", "dog", "frog", "horse", "truck")
"""Classes of the network to start from."""
FIX = "mend that, and start again with a new --work"
"""The fix where the system refuses a file or a process."""
START = "resnet18.pth"
SMALLEST, LARGEST = 100, 400
"""Sides of the photos in pixels."""
WAYS = {"whole": ("the whole network", ()), "frozen": ("the block and the head alone", ("--freeze-backbone",))}
"""The trained parts in words, and the options for them, by name."""
READY_SECONDS = 300
"""Timeout of a service's start on a busy machine."""


class OwnFolderError(TrainingError):
    """A command of the way failed, or there are no pictures to begin with."""


@dataclass(frozen=True)
class Size:
    """Amount of training and judging.

    Attributes:
        start_per_class: Photos of each of the other classes, for the network to start from.
        start_epochs: Its epochs.
        per_class: Photos of each class.
        arch: Backbone.
        image_size: Side in pixels that they are resized to.
        recipe: The recipe of training.
        epochs: Epochs.
        batch_size: Photos a step.
        attacks: The option --attacks of the judging.
        threads: CPU threads of training and judging.
    """

    start_per_class: int = 60
    start_epochs: int = 4
    per_class: int = 60
    arch: str = "timm:resnet18"
    image_size: int = 128
    recipe: str = "finetune"
    epochs: int = 10
    batch_size: int = 16
    attacks: str = "pgd-10,cw-20"
    threads: int = 2


@dataclass(frozen=True)
class Step:
    """A command of the way.

    Attributes:
        name: Name of the step.
        command: The command line, as somebody types it.
        seconds: How long it took.
        core_seconds: Its processor time, of all its processes.
    """

    name: str
    command: str
    seconds: float
    core_seconds: float


@system_errors_as(OwnFolderError, FIX)
def make_photos(source: Path, folder: Path, classes: Sequence[str], per_class: int, seed: int = 0) -> None:
    """Write photos of mixed sizes into class folders.

    Args:
        source: Holds train/<class>/<picture>.
        folder: Where the class folders are made.
        classes: Names of the classes.
        per_class: Photos of each class.
        seed: Seed of the sizes.

    Raises:
        OwnFolderError: A class has too few pictures, or a file cannot be read or written.
    """
    sizes = random.Random(seed)
    for name in classes:
        paths = [path for path in sorted((source / "train" / name).glob("*")) if path.suffix.lower() in SUFFIXES]
        if len(paths) < per_class:
            raise OwnFolderError(f"{source / 'train' / name}: {len(paths)} pictures, but {per_class} are wanted")
        (folder / name).mkdir(parents=True)
        for path in paths[:per_class]:
            size = (sizes.randint(SMALLEST, LARGEST), sizes.randint(SMALLEST, LARGEST))
            enlarged = Image.fromarray(read_rgb(path, None)).resize(size, Image.Resampling.BICUBIC)
            enlarged.save(folder / name / f"{path.stem}.jpg", quality=90)


def commands(size: Size, way: str) -> dict[str, list[str]]:
    """Return the arguments of `sgn` for each step of one of WAYS, by its name."""
    threads = ["--threads", str(size.threads)]
    checkpoint = f"runs/{way}/model.safetensors"
    return {
        "train": [
            *("train", "--data-root", "photos", "--arch", size.arch, "--pretrained", START),
            *("--image-size", str(size.image_size), "--recipe", size.recipe, "--epochs", str(size.epochs)),
            *("--batch-size", str(size.batch_size), *WAYS[way][1], "--run", way, *threads),
        ],
        "judge": [
            *("judge", "--ckpt", checkpoint, "--data-root", "photos", "--attacks", size.attacks, "--beta", "20"),
            *threads,
        ],
        "export": ["export", "--ckpt", checkpoint, "--onnx", f"{way}.onnx"],
    }


@system_errors_as(OwnFolderError, FIX)
def make_start(work: Path, size: Size) -> None:
    """Train a plain network on others/, and write its state dict as other programs do, normalisation layer included.

    Args:
        work: The folder that has others/.
        size: How much is trained.

    Raises:
        OwnFolderError: Training failed; it has printed why.
    """
    run_sgn(
        work,
        *("train", "--data-root", "others", "--arch", size.arch, "--image-size", str(size.image_size)),
        *("--method", "standard", "--lr", "0.05", "--lr-schedule", "cyclic", "--epochs", str(size.start_epochs)),
        *("--batch-size", str(size.batch_size), "--run", "start", "--threads", str(size.threads)),
    )
    network, _ = load_checkpoint(work / "runs" / "start" / run_files.CHECKPOINT)
    weights = {f"model.{name}": tensor for name, tensor in network.backbone.state_dict().items()}
    torch.save({"mean": network.mean, "std": network.std, **weights}, work / START)


def run_sgn(work: Path, *arguments: str) -> None:
    """Run a command of `sgn` in a folder.

    Raises:
        OwnFolderError: The command failed; it has printed why.
    """
    command = [sys.executable, "-m", "sgn", *arguments]
    if subprocess.run(command, cwd=work, env=_environment(), check=False).returncode:
        raise OwnFolderError(f"sgn {shlex.join(arguments)} failed; its message is above")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}


def stopwatch(steps: list[Step], told: Callable[[Step], None]) -> Callable[[str, str, Callable[[], Any]], Any]:
    """Return a function that does a step of this name and command, and returns what that returned.

    Args:
        steps: Gets each step when it is done.
        told: Likewise.
    """

    def measured(name: str, command: str, act: Callable[[], Any]) -> Any:
        began, used = time.monotonic(), _children()
        result = act()
        steps.append(Step(name, command, round(time.monotonic() - began, 1), round(_children() - used, 1)))
        told(steps[-1])
        return result

    return measured


@system_errors_as(OwnFolderError, FIX)
def go(work: Path, size: Size, way: str, told: Callable[[Step], None] = lambda _: None) -> dict[str, Any]:
    """Go one of WAYS in a folder that has photos/, and return the steps and the figures.

    Args:
        work: The folder. It has resnet18.pth too; runs/WAY and WAY.onnx are made in it.
        size: How much is trained and judged.
        way: What is trained.
        told: Gets each step when it is done.

    Raises:
        OwnFolderError: A command failed; it has printed why.
    """
    steps: list[Step] = []
    measured = stopwatch(steps, told)
    for name, arguments in commands(size, way).items():
        measured(name, f"sgn {shlex.join(arguments)}", partial(run_sgn, work, *arguments))
    answers = measured("serve and classify", f"sgn serve --model {way}.onnx", lambda: classify_unseen(work, way))
    report = json.loads((work / "runs" / way / run_files.REPORT).read_text())
    return {
        "steps": [asdict(step) for step in steps],
        "judged_pictures": report["setting"]["pictures"],
        "rows": [{name: row[name] for name in ("id", "title", "accuracy")} for row in report["rows"]],
        "lowest": report["headline"]["lowest accuracy per picture"],
        "served": answers,
    }


def classify_unseen(work: Path, way: str) -> dict[str, int]:
    """Serve WAY.onnx, classify each photo of the test part, and return how many there were and how many were right.

    Raises:
        OwnFolderError: The service does not start, or refuses a photo.
    """
    _, info = load_checkpoint(work / "runs" / way / run_files.CHECKPOINT)
    unseen = in_test_part(work / "photos", info.class_names, info.split)
    paths = [path for path in sorted((work / "photos").glob("*/*")) if unseen(path)]
    with service(work, f"{way}.onnx") as client:
        right = sum(classified(client, path)["label"] == path.parent.name for path in paths)
    return {"pictures": len(paths), "right": right}


@contextmanager
def service(work: Path, model: str) -> Iterator[httpx.Client]:
    """Yield a client of `sgn serve` on a graph in a folder, until the block ends.

    Raises:
        OwnFolderError: The service does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sgn", "serve", "--model", model, "--port", str(port)]
    log = work / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=work, env=_environment(), stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, server, log)
            yield client
    finally:
        server.terminate()
        server.wait()


def classified(client: httpx.Client, path: Path, **form: str) -> dict[str, Any]:
    """Return the service's answer to a picture.

    Args:
        client: A client of the service.
        path: The picture.
        form: Further fields of the form.

    Raises:
        OwnFolderError: It refuses it.
    """
    answer = client.post("/classify", files={"image": path.read_bytes()}, data=form)
    if answer.status_code != 200:
        raise OwnFolderError(f"{path}: the service answers {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def wait_until_ready(
    client: httpx.Client, server: subprocess.Popen[bytes], log: Path, seconds: float = READY_SECONDS
) -> None:
    """Wait until a server answers that it is ready.

    Args:
        client: A client of the server.
        server: Its process.
        log: The file that has its output, for the message.
        seconds: How long it may take.

    Raises:
        OwnFolderError: It ends, or takes too long.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if client.get(READY).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise OwnFolderError(f"the service did not start; {log} says why")


def _children() -> float:
    """Return the processor seconds of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def steps_table(result: dict[str, Any]) -> str:
    """Return the steps of both ways with their time as Markdown."""
    ways = [result["ways"][way]["steps"] for way in WAYS]
    lines = [
        [steps[0]["name"], *(f"{step[key] / 60:.1f}" for step in steps for key in ("seconds", "core_seconds"))]
        for steps in zip(*ways, strict=True)
    ]
    total = [sum(step[key] for step in steps) / 60 for steps in ways for key in ("seconds", "core_seconds")]
    lines.append(["**together**", *(f"**{value:.1f}**" for value in total)])
    heads = [f"{words}: {unit}" for words, _ in WAYS.values() for unit in ("minutes", "minutes of one core")]
    return table(["step", *heads], lines, "lrrrr")


def figures_table(result: dict[str, Any]) -> str:
    """Return the accuracies of both ways as Markdown."""
    ways = [result["ways"][way] for way in WAYS]
    whole, *_ = found = [{RowId.from_dict(row["id"]): row["accuracy"] for row in way["rows"]} for way in ways]
    lines = [[row.label, *(f"{100 * rows[row]:.1f}" for rows in found)] for row in whole]
    lines.append(["**lowest, per picture**", *(f"**{100 * way['lowest']:.1f}**" for way in ways)])
    return table(["accuracy in percent", *(words for words, _ in WAYS.values())], lines, "lrr")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("release.own_folder", __doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="CIFAR-10 as train/<class>/*.jpg")
    parser.add_argument("--work", type=Path, required=True, help="a new folder for photos, run and graph")
    add_out(parser, RESULT)
    for name, value in asdict(Size()).items():
        kind = thread_count if name == "threads" else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, help=f"default: {value}")
    options = parser.parse_args(arguments)
    size = Size(**{name: getattr(options, name) for name in asdict(Size())})
    try:
        check_writable(options.out)
        make_photos(options.data_root, options.work / "others", OTHERS, size.start_per_class)
        make_photos(options.data_root, options.work / "photos", CLASSES, size.per_class)
        make_start(options.work, size)
        ways = {way: go(options.work, size, way, lambda step: say(str(step))) for way in WAYS}
        about = {
            "command": "python -m release.own_folder --data-root data --work own",
            "versions": versions(("torch", "timm", "onnxruntime")),
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[2], 1),
            "git_commit": commit(),
        }
        result = about | {"size": asdict(size), "ways": ways}
        write_result(options.out, result)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    print(steps_table(result), figures_table(result), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
