"""A command line answers --help and refuses mistakes before it imports what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked_commands import PARSERS, Ended, run_all

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "onnxruntime", "onnx", "bentoml", "scipy", "matplotlib", "timm", "ray"}

DATA = ["--data-root=nowhere", "--dataset=cifar10"]
JUDGED = ["--ckpt=nowhere.safetensors", "--data-root=nowhere"]
CONVERTED = ["--weights=nowhere.pt", "--classes=a,b", "--out=nowhere.safetensors"]
HERE = str(Path(__file__))
"""A file that is there, for options whose neighbour names one that is not."""

MISTAKES = [
    (["training", *DATA, "--epoch-count=3"], "unknown option --epoch-count"),
    (["training", *DATA, "--method=tradse"], "unknown value 'tradse'; did you mean trades? known are: "),
    (["training", "--data-root=nowhere", "--dataset=cifar-10"], "did you mean cifar10"),
    (["training", *DATA, "--arch=wrn28-10"], "did you mean wrn-28-10? known are: "),
    (["training", *DATA, "--arch=resnet18"], "did you mean resnet-18 or timm:resnet18"),
    (["training", *DATA, "--eps=8"], "write 8 of 255 levels as 8/255"),
    (["training", *DATA, "--threads=0"], "--threads must be at least 1"),
    (["training", *DATA, "--trades-beta=3"], "it is for trades"),
    (["training", *DATA, "--epochs=1.5"], "argument --epochs: expected a whole number, not '1.5'"),
    (["training", *DATA, "--threads=all"], "argument --threads: expected a whole number, not 'all'"),
    (["training", *DATA], "nowhere: no such folder; expected cifar-10-python.tar.gz"),
    (["training", "--data=nowhere"], "nowhere: no such folder; expected <data-root>/<class>/<picture>"),
    (["training", f"--data={HERE}"], "a file, not a folder; expected <data-root>/<class>/<picture>"),
    (["training", *DATA, "--init-from=nowhere.pt"], "nowhere.pt: no such file; pass a model.safetensors "),
    (["training", *DATA, "--pretrained=nowhere.pt"], "to --pretrained"),
    (["training", *DATA, "--run=nowhere", "--resume"], "so there is nothing to resume; leave --resume away"),
    (["training", *DATA, "--run=../x"], "--run '../x' is no name of a folder in runs/"),
    (["training.evaluate", *JUDGED, "--attack=pdg-20"], "did you mean pgd-20? known are: "),
    (["training.evaluate", *JUDGED, "--attacks", "autoatack"], "did you mean autoattack? known are: "),
    (["training.evaluate", *JUDGED, "--epsilon=8"], "write 8 of 255 levels as 8/255"),
    (["training.evaluate", *JUDGED, "--dataset=cifar"], "did you mean cifar10"),
    (["training.evaluate", *JUDGED, "--pictures=ten"], "argument --pictures: expected a whole number, not 'ten'"),
    (["training.evaluate", *JUDGED], "nowhere.safetensors: no such file; pass a model.safetensors written by "),
    (["training.evaluate", f"--ckpt={HERE}", "--data=nowhere"], "nowhere: no such folder; point --data-root at "),
    (["training.evaluate", f"--ckpt={HERE}", "--data=.", "--onnx=no.onnx"], "no.onnx: no such file; write it with"),
    (["training.evaluate", f"--ckpt={HERE}", "--data=.", "--transfer-from=nowhere.pt"], "nowhere.pt: no such file"),
    (["training.evaluate", "--module=no.py:build", "--data=.", "--dataset=cifar10"], "there is no file no.py"),
    (["training.convert", *CONVERTED, "--activation=rellu"], "did you mean relu"),
    (["training.convert", *CONVERTED, "--eps=x"], "'x' is not a number"),
    (["training.convert", *CONVERTED, "--arch=preactresnet18"], "did you mean preact-resnet-18"),
    (["training.convert", *CONVERTED, "--image-size=0"], "--image-size must be in [1, 4096], not 0"),
    (["training.convert", *CONVERTED, "--image-size=-5"], "--image-size must be in [1, 4096], not -5"),
    (["training.convert", *CONVERTED, "--image-size=32.5"], "--image-size: expected a whole number, not '32.5'"),
    (["training.convert", *CONVERTED, "--epsilon=8"], "not 8; write 8 of 255 levels as 8/255"),
    (["training.convert", *CONVERTED, "--epsilon=-1"], "--epsilon must be in [0, 1), units of pixel intensity, not -1"),
    (["training.convert", *CONVERTED, "--eps=nan"], "'nan' is not a number"),
    (["training.convert", *CONVERTED, "--mean=nan,0,0", "--std=1,1,1"], "argument --mean: 'nan' is not a number"),
    (["training.convert", *CONVERTED, "--mean=0,0,0", "--std=1,inf,1"], "argument --std: 'inf' is not a number"),
    (["training.convert", *CONVERTED, "--mean=0,0,0"], "--mean and --std belong together; pass both or neither"),
    (["training.convert", *CONVERTED], "nowhere.pt: no such file; pass the weights to --weights"),
    (["training.convert", *CONVERTED, "--classes=a,a"], "--classes names 'a' twice"),
    (["training.convert", *CONVERTED, "--out=x.onnx"], "pass a name that ends in .safetensors"),
    (["training.reproduce", "table2", "--data=nowhere"], "nowhere: no such folder; expected cifar-10-python.tar.gz"),
    (["training.reproduce", "table2", "--threads=x"], "--threads: expected a whole number, not 'x'"),
    (["training.reproduce", "tabel2"], "did you mean table2"),
    (["training.reproduce", "table2", "--only=svhn"], "table2 is about"),
    (["export", "--ckpt=nowhere.safetensors", "--onxx"], "did you mean --onnx"),
    (["export", "--ckpt=nowhere.safetensors"], "say what to write: --onnx"),
    (["export", "--ckpt=nowhere.safetensors", "--onnx"], "nowhere.safetensors: no such file; pass a "),
    (["export", f"--ckpt={HERE}", "--onnx=x", "--examples=2", "--data=nowhere"], "nowhere: no such folder; point "),
    (["export", f"--ckpt={HERE}", "--onnx=x", "--examples=two"], "--examples: expected a whole number, not 'two'"),
    (["export", f"--ckpt={HERE}", "--onnx=x", "--auto-agreement=x"], "--auto-agreement: expected a number, not 'x'"),
    (["export", f"--ckpt={HERE}", "--onnx=x", "--auto-agreement=nan"], "nan is not a share between 0 and 1"),
    (["export", f"--ckpt={HERE}", "--onnx=x", "--min-agreement=inf"], "inf is not a share between 0 and 1"),
    (["sgn_serve", "--modell=x"], "did you mean --model"),
    (["sgn_serve", "--port=http"], "'http' is not a port"),
    (["sgn_serve", "--host=example.org"], "'example.org' is not an address of this machine; give its number, such as "),
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


HELP = [*([name] for name in COMMANDS), *(["sgn", name] for name in SUBCOMMANDS)]
A_SETTING = ["sgn_serve", "--top-k=many"]


@pytest.fixture(scope="module")
def ended() -> dict[tuple[str, ...], Ended]:
    """Return how each command line ended."""
    commands = [*([*name, "--help"] for name in HELP), *(arguments for arguments, _ in MISTAKES), A_SETTING]
    done = {tuple(command): one for command, one in zip(commands, run_all(commands), strict=True)}
    assert all("argparse" in one.imported for one in done.values()), "the imports are seen"
    return done


def test_what_a_command_imports_in_a_process_of_its_own_is_seen():
    """A fork could hide what its parent imports. A new interpreter shows what the parsers import by themselves."""
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *PARSERS], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"argparse", "training", "export", "sgn", "sgn_serve"} <= imported
    assert not imported & HEAVY


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_imports_nothing_heavy(arguments, ended):
    done = ended[(*arguments, "--help")]
    assert (done.status, done.errors) == (0, [])
    program = " ".join(arguments) if arguments[0] == "sgn" else f"python -m {arguments[0]}"
    assert done.printed.startswith(f"usage: {program}")
    assert not done.imported & HEAVY


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_a_mistake_is_told_first_and_imports_nothing_heavy(arguments, told, ended):
    done = ended[tuple(arguments)]
    assert (done.status, done.printed) == (2, ""), done.errors
    assert done.errors[0].startswith("error: ")
    assert told in done.errors[0]
    assert len(done.errors) <= 2, "an error, and at most one line of usage"
    assert all(line.startswith("usage: ") and line.endswith("--help") for line in done.errors[1:])
    assert not done.imported & HEAVY


def test_a_run_that_is_there_is_told_before_anything_heavy_is_imported(tmp_path):
    for name, file in (("stopped", "state.pt"), ("finished", "model.safetensors")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / file).touch()
    (tmp_path / "runs" / "living").mkdir()
    for file in ("state.pt", "run.lock"):
        (tmp_path / "runs" / "living" / file).touch()
    commands = [["training", *DATA, f"--run={name}"] for name in ("stopped", "finished", "living")]
    stopped, finished, living = run_all(commands, tmp_path)
    assert stopped.errors == [
        "error: runs/stopped/state.pt exists: add --resume to continue that run, or give another --run"
    ]
    assert finished.errors == [
        "error: runs/finished/model.safetensors exists: move it away or give another --run",
    ]
    assert not (stopped.imported | finished.imported) & HEAVY
    # The process that takes its lock tells who has the folder, so the state is no reason to refuse here.
    (error,) = living.errors
    assert error.startswith("error: nowhere: no such folder")


def test_a_setting_that_was_given_as_an_option_is_refused_by_its_option(ended):
    done = ended[tuple(A_SETTING)]
    told = "error: --top-k='many' cannot be used: expected a whole number from 1 to 1000"
    assert (done.status, done.errors) == (1, [told])
    assert not done.imported & HEAVY
