"""A command line answers --help and refuses mistakes before it imports what takes seconds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "onnxruntime", "onnx", "bentoml", "scipy", "matplotlib", "timm", "ray"}

DATA = ["--data-root=nowhere", "--dataset=cifar10"]
JUDGED = ["--ckpt=nowhere.safetensors", "--data-root=nowhere"]
CONVERTED = ["--weights=nowhere.pt", "--classes=a,b", "--out=nowhere.safetensors"]

MISTAKES = [
    (["training", *DATA, "--epoch-count=3"], "unknown option --epoch-count"),
    (["training", *DATA, "--method=tradse"], "unknown value 'tradse'; did you mean trades? known are: "),
    (["training", "--data-root=nowhere", "--dataset=cifar-10"], "did you mean cifar10"),
    (["training", *DATA, "--arch=wrn28-10"], "did you mean wrn-28-10? known are: "),
    (["training", *DATA, "--arch=resnet18"], "did you mean resnet-18 or timm:resnet18"),
    (["training", *DATA, "--eps=8"], "write 8 of 255 levels as 8/255"),
    (["training", *DATA, "--threads=0"], "--threads must be at least 1"),
    (["training", *DATA, "--trades-beta=3"], "it is for trades"),
    (["training.evaluate", *JUDGED, "--attack=pdg-20"], "did you mean pgd-20? known are: "),
    (["training.evaluate", *JUDGED, "--attacks", "autoatack"], "did you mean autoattack? known are: "),
    (["training.evaluate", *JUDGED, "--epsilon=8"], "write 8 of 255 levels as 8/255"),
    (["training.evaluate", *JUDGED, "--dataset=cifar"], "did you mean cifar10"),
    (["training.convert", *CONVERTED, "--activation=rellu"], "did you mean relu"),
    (["training.convert", *CONVERTED, "--eps=x"], "'x' is not a number"),
    (["training.convert", *CONVERTED, "--arch=preactresnet18"], "did you mean preact-resnet-18"),
    (["training.reproduce", "tabel2"], "did you mean table2"),
    (["training.reproduce", "table2", "--only=svhn"], "table2 is about"),
    (["export", "--ckpt=nowhere.safetensors", "--onxx"], "did you mean --onnx"),
    (["export", "--ckpt=nowhere.safetensors"], "say what to write: --onnx"),
    (["sgn_serve", "--modell=x"], "did you mean --model"),
    (["sgn_serve", "--port=http"], "'http' is not a port"),
    (["sgn_serve", "graph.onnx"], "to serve a graph write --model graph.onnx"),
    (["sgn_serve.classify", "photos", "--out=a.csv", "--self-gradient=of"], "did you mean off"),
    (["sgn_serve.classify", "photos", "--out=a.csv", "--chunk=0"], "'0' is not a number of rows; give 1 or more"),
    (["sgn_serve.classify", "photos", "--out=a.csv", "--ray-cores=2"], "are for --ray; give it too, or leave them out"),
    (["sgn_serve.classify.report", "a.csv", "--thruth=b.csv"], "did you mean --truth"),
    (["sgn", "trian"], "did you mean train? known are: "),
    (["sgn", "--versoin"], "did you mean --version"),
    (["sgn", "judge", *JUDGED, "--attacks=pgd"], "unknown attack 'pgd'; "),
]  # fmt: skip
COMMANDS = [
    *("training", "training.evaluate", "training.convert", "training.reproduce", "export"),
    *("sgn_serve", "sgn_serve.classify", "sgn_serve.classify.report", "sgn"),
]
SUBCOMMANDS = ["train", "judge", "convert", "reproduce", "export", "classify", "report", "serve"]


def run(arguments: list[str]) -> tuple[int, str, list[str], set[str]]:
    """Return the status, the output, the lines of errors, and the top-level names of what was imported."""
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    errors, imported = [], set()
    for line in done.stderr.splitlines():
        found = re.fullmatch(r"import time:.*\| *([\w.]+)", line)
        if found:
            imported.add(found[1].partition(".")[0])
        elif not line.startswith("import time:"):
            errors.append(line)
    assert "argparse" in imported, "the imports are seen"
    return done.returncode, done.stdout, errors, imported


@pytest.mark.parametrize("arguments", [*([name] for name in COMMANDS), *(["sgn", name] for name in SUBCOMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    status, printed, errors, imported = run([*arguments, "--help"])
    assert (status, errors) == (0, [])
    program = " ".join(arguments) if arguments[0] == "sgn" else f"python -m {arguments[0]}"
    assert printed.startswith(f"usage: {program}")
    assert not imported & HEAVY


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_a_mistake_is_told_first_and_imports_nothing_heavy(arguments, told):
    status, printed, errors, imported = run(arguments)
    assert (status, printed) == (2, "")
    assert errors[0].startswith("error: ")
    assert told in errors[0]
    assert len(errors) <= 2, "an error, and at most one line of usage"
    assert all(line.startswith("usage: ") and line.endswith("--help") for line in errors[1:])
    assert not imported & HEAVY


def test_a_setting_that_was_given_as_an_option_is_refused_by_its_option():
    status, _, errors, imported = run(["sgn_serve", "--top-k=many"])
    assert (status, errors) == (1, ["error: --top-k='many' cannot be used: expected a whole number, 1 or more"])
    assert not imported & HEAVY
