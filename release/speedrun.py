"""Compare recipes of robust training at equal processor time, on validation pictures.

    python -m release.speedrun --data-root data --minutes 20 --threads 1            # every recipe, one after the other
    python -m release.speedrun --data-root data --minutes 20 --recipes prior nuat   # these alone

DIR holds train/<class>/. Each recipe of release/recipes.py trains a network from random weights for so many minutes of
a core, validation after each epoch included. The learning rate falls to 0 with the last of them. The network is judged
by APGD-CE, and what that leaves by APGD-T, on pictures that training held out; never on test pictures.

It writes results/speedrun.json, a row a recipe, and results/speedrun.md, after each attack. A row that is there already
is not made again, and the same command continues an interrupted training after its last epoch. Other options than those
of a row or of a training that is there are refused.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command_line import ROOT, command_parser, write_result
from benchmarks.provenance import commit
from export.auto_margin import AutoRequest, validation_pictures
from release.gpu import flops
from release.recipes import COMMON, RECIPES
from sgn_serve.common.command_parser import did_you_mean, folder_to_write
from sgn_serve.common.confidence import interval_95
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import file_sha256
from sgn_serve.common.markdown import table
from training.attacks.registry import AnyAttack, Context, build_attacks
from training.checkpoint import load_checkpoint
from training.command import main as train
from training.common import run_files
from training.common.devices import check_threads
from training.common.errors import TrainingError
from training.common.files import write_atomically
from training.common.provenance import current_versions
from training.data.batches import to_float
from training.data.loading import choose_pictures
from training.evaluate.measuring import Trial, withstood
from training.loop.state import load_state

RESULTS = ROOT / "results"
ATTACKS = ("apgd-ce", "apgd-t")
JUDGED = ("clean", *ATTACKS)
"""Families of the attacks, in the order of the judgement."""
BATCH = 100
"""Pictures that are attacked at once."""


STORED = ("data_root", "pictures", "threads", "training")
"""Options that a row depends on, beside those that tell it from others."""


class SpeedrunError(TrainingError):
    """A recipe that cannot be trained or judged; the message names the fix."""


@dataclass(frozen=True)
class Entry:
    """A recipe at one budget.

    Attributes:
        recipe: Name of the recipe.
        arch: Backbone.
        minutes: Minutes of a core that it trains for.
        seed: Seed of the training.
    """

    recipe: str
    arch: str
    minutes: float
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """Return what tells its row from others."""
        return {"recipe": self.recipe, "arch": self.arch, "minutes": self.minutes, "seed": self.seed}

    @property
    def name(self) -> str:
        """The --run of its training."""
        return f"speedrun/{self.arch}-{self.minutes:g}-{self.seed}/{self.recipe}"

    @property
    def folder(self) -> Path:
        """The folder of its training."""
        return Path("runs") / self.name

    @property
    def checkpoint(self) -> Path:
        """The trained network."""
        return self.folder / run_files.CHECKPOINT

    @property
    def note(self) -> Path:
        """The file that holds the command of its training."""
        return self.folder / "command.txt"

    def training_command(self, options: argparse.Namespace) -> list[str]:
        """Return the arguments of `python -m training`."""
        arguments = ["--dataset", "image-folder", "--data-root", str(options.data_root), "--arch", self.arch]
        arguments += ["--run", self.name, "--minutes", f"{self.minutes:g}", "--minutes-of", "core"]
        arguments += ["--seed", str(self.seed), *COMMON, *RECIPES[self.recipe].flags]
        if options.threads:
            arguments += ["--threads", str(options.threads)]
        return [*arguments, *shlex.split(options.training)]

    def training_line(self, options: argparse.Namespace) -> str:
        """Return the command line of its training."""
        return shlex.join(["python", "-m", "training", *self.training_command(options)])

    def command(self, options: argparse.Namespace) -> str:
        """Return the command that makes its row anew."""
        parts = ["python", "-m", "release.speedrun", "--data-root", str(options.data_root)]
        parts += ["--arch", self.arch, "--minutes", f"{self.minutes:g}", "--seed", str(self.seed)]
        parts += ["--threads", str(options.threads)] if options.threads else []
        parts += ["--pictures", str(options.pictures)]
        parts += [f"--training={options.training}"] if options.training else []  # it may begin with a dash
        return shlex.join([*parts, "--recipes", self.recipe])


def trained(entry: Entry, options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of an entry, and return the progress of its training.

    A training that stopped for good because its figures showed a collapse is a result: its best epoch is judged.

    Raises:
        SpeedrunError: Training failed or was interrupted, or the one that is there had another command.
    """
    state = entry.folder / run_files.STATE
    command = entry.training_line(options)
    if state.is_file() and entry.note.is_file() and (before_it := entry.note.read_text()) != command:
        raise SpeedrunError(
            f"{entry.folder} holds a training by another command: {before_it}; give its options, or move it away"
        )

    def progress() -> dict[str, Any]:
        if not state.is_file():
            return {"finished": False, "problem": ""}
        found: dict[str, Any] = load_state(state, f"move {entry.folder} away to train it anew", mmap=True)[0][
            "progress"
        ]
        return found

    before = progress()
    if before["finished"] or before["problem"]:
        return before
    write_atomically(entry.note, command.encode())
    arguments = entry.training_command(options) + (["--resume"] if state.is_file() else [])
    say(f"$ python -m training {shlex.join(arguments)}")
    status = train(arguments)
    after = progress()
    if status and not (after["problem"] and entry.checkpoint.is_file()):
        raise SpeedrunError(f"training {entry.recipe} failed; its message is above. The same command continues")
    return after


def judge(entry: Entry, options: argparse.Namespace, row: dict[str, Any]) -> list[str]:
    """Judge a trained network by the first attack that its row lacks, and add the figures to the row.

    Args:
        entry: The recipe and its budget.
        options: The command line.
        row: The row, which is changed.

    Returns:
        The attacks that are still to be run.
    """
    model, info = load_checkpoint(entry.checkpoint)
    model.requires_grad_(False)
    held_out = validation_pictures(info, AutoRequest(1.0, options.data_root))
    chosen = choose_pictures(held_out, options.pictures, entry.seed, strict=False)
    images = to_float(chosen.images)
    trial = Trial(model, images, chosen.labels, info.epsilon, entry.seed, BATCH)
    attacks: dict[str, AnyAttack] = {
        attack.id.family: attack
        for attack in build_attacks(ATTACKS, Context(info.epsilon, model.block is not None, len(info.class_names)))
    }
    right = row.setdefault("right", {})
    missing = [name for name in JUDGED if name not in right]
    if missing:
        left = torch.ones(len(trial), dtype=torch.bool)
        for answers in right.values():
            left &= torch.tensor([answer == "1" for answer in answers])
        found = torch.zeros(len(trial), dtype=torch.bool)
        if left.any():
            found[left] = withstood(trial.chosen(left), attacks[missing[0]])
        right[missing[0]] = "".join("1" if answer else "0" for answer in found.tolist())
    row.update(_figures(row, len(trial)), pictures=len(trial), pictures_sha256=chosen.sha256(), epsilon=info.epsilon)
    operations = flops.of_network(model, info.image_size[0])["one pass"]
    row.update(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiplications=round(operations / 2),
        kept_epoch=info.history["epoch"],
        checkpoint_sha256=file_sha256(entry.checkpoint),
    )
    return missing[1:]


def _figures(row: dict[str, Any], pictures: int) -> dict[str, Any]:
    """Return the accuracies of a row: each attack was run on what those before it left."""
    figures: dict[str, Any] = {name: round(answers.count("1") / pictures, 4) for name, answers in row["right"].items()}
    if JUDGED[-1] in figures:
        lowest = row["right"][JUDGED[-1]].count("1")
        figures |= {"lowest": round(lowest / pictures, 4), "interval": interval_95(lowest, pictures)}
    return figures


def check_options(entry: Entry, options: argparse.Namespace, row: dict[str, Any]) -> None:
    """Refuse a row that was begun with other options than those of now.

    Raises:
        SpeedrunError: It was; the message names them.
    """
    then = parse(shlex.split(row["command"])[3:])
    differing = [name for name in STORED if getattr(then, name) != getattr(options, name)]
    if differing:
        told = ", ".join(
            f"--{name.replace('_', '-')} (was {getattr(then, name) or 'not given'}, "
            f"now {getattr(options, name) or 'not given'})"
            for name in differing
        )
        fix = "give the options of then, or another --out"
    elif row["training_command"] != entry.training_line(options):
        told, fix = (
            f"its training (was {row['training_command']})",
            "take the row out of the file, or give another --out",
        )
    else:
        return
    raise SpeedrunError(f"{options.out / 'speedrun.json'}: the row of {entry.recipe} has other options: {told}; {fix}")


def complete(row: dict[str, Any]) -> bool:
    """Return whether a row lacks no attack."""
    return all(name in row.get("right", {}) for name in JUDGED)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the complete rows, the most robust first, with the commands that make them."""
    done = sorted(filter(complete, rows), key=lambda row: (row["minutes"], -row["lowest"], -row["clean"]))
    if not done:
        return "No recipe is trained and judged yet.\n"
    lines = []
    for row in done:
        low, high = row["interval"]
        lines.append(
            (
                row["recipe"],
                RECIPES[row["recipe"]].about if row["recipe"] in RECIPES else "",
                str(row["seed"]),
                f"{row['core_minutes']:.1f}",
                str(row["epochs"]) + (" (stopped)" if row["problem"] else ""),
                f"{row['parameters']:,}",
                f"{row['multiplications'] / 1e6:,.1f} M",
                f"{100 * row['clean']:.1f}",
                f"{100 * row['apgd-ce']:.1f}",
                f"{100 * row['lowest']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
            )
        )
    header = ("recipe", "what it is", "seed", "minutes of a core", "epochs", "parameters", "multiplications", "clean")
    body = table((*header, "APGD-CE", "APGD-CE and APGD-T", "95 % interval"), lines, "llrrrrrrrrr")
    commands = "\n".join(row["command"] for row in done)
    counts = ", ".join(sorted({str(row["pictures"]) for row in done}))
    archs = ", ".join(sorted({row["arch"] for row in done}))
    return (
        f"# Recipes at equal processor time\n\nAccuracy in percent on {counts} validation pictures ({archs}), which "
        "chose nothing but the kept epoch. APGD-T is run on what APGD-CE leaves. Multiplications are those of one "
        f"answer.\n\n{body}\n\nEach row again:\n\n```sh\n{commands}\n```\n"
    )


def run(options: argparse.Namespace) -> None:
    """Train and judge the recipes that were asked for, and write the results after each attack.

    Raises:
        TrainingError: A recipe is unknown, or training or judging failed.
    """
    for name in options.recipes:
        if name not in RECIPES:
            raise SpeedrunError(
                f"unknown recipe {name!r}; {did_you_mean(name, RECIPES)}known are: {', '.join(RECIPES)}"
            )
    path: Path = options.out / "speedrun.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def save() -> None:
        write_result(path, rows)
        write_atomically(path.with_suffix(".md"), markdown(rows).encode())

    for name in options.recipes:
        entry = Entry(name, options.arch, options.minutes, options.seed)
        row = next((row for row in rows if row.items() >= entry.key.items()), None)
        if row is not None:
            check_options(entry, options, row)
            if complete(row):
                continue
        progress = trained(entry, options)
        if row is None:
            row = dict(entry.key)
            rows.append(row)
        row.update(
            core_minutes=round(progress["core_seconds"] / 60, 4),
            wall_minutes=round(progress["wall_seconds"] / 60, 4),
            epochs=progress["epoch"],
            problem=progress["problem"],
            command=entry.command(options),
            training_command=entry.training_line(options),
            versions=current_versions(),
            git_commit=commit(),
        )
        while judge(entry, options, row):
            save()
        save()
        print(f"{name}: clean {row['clean']:.3f}, lowest {row['lowest']:.3f}", flush=True)


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.speedrun", __doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="image folder (default: data)")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="names of recipes (default: all)")
    parser.add_argument("--minutes", type=float, default=20.0, help="minutes of a core for each (default: 20)")
    parser.add_argument("--arch", default="wrn-16-2", help="backbone (default: wrn-16-2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and judgement (default: %(default)s)")
    parser.add_argument(
        "--pictures", type=int, default=500, help="validation pictures to judge on (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--training", default="", help="more options of python -m training, in one text")
    parser.add_argument(
        "--out", type=folder_to_write, default=RESULTS, help="folder of the results (default: results/)"
    )
    return parser.parse_args(command_line)


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = parse(command_line)
    try:
        check_threads(options.threads)  # here, and not in parse, which reads rows of other machines too
        if options.threads:
            torch.set_num_threads(options.threads)
        run(options)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
