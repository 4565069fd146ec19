"""Attack the trained networks with AutoAttack's two kinds of APGD: block on, block off, and the plain networks.

Every batch is attacked in all columns before the next batch. When the time is up, the pictures done so far are
therefore a sample with a confidence interval. With the time that is left then, AutoAttack's other two attacks are run
on what the ResNet-18 still withstands.
"""

import importlib.util
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from release.gpu import pictures
from release.gpu.stage import Run, Skip, main
from release.gpu.train import PLAIN, RESNET_18, SELF_GRADIENT, checkpoint
from sgn_serve.common.confidence import interval_95
from training.attacks import base, gradient_attack
from training.attacks.auto_attack import GradientStage, Square
from training.attacks.registry import AnyAttack
from training.attacks.rows import RowId
from training.checkpoint import load_checkpoint
from training.config import EPS
from training.data.batches import to_float
from training.data.loading import choose_pictures
from training.evaluate import measuring
from training.networks.self_gradient import SelfGradientNetwork

SEED = 1  # chooses the same pictures as the bundled network's reports
PICTURES = (1000, 10)
"""Pictures to attack at most: in a run, in a rehearsal."""
BATCH = (250, 5)
"""Batch size: in a run, in a rehearsal."""
ITERATIONS = (100, 2)
"""Steps of an attack: in a run, in a rehearsal."""
QUERIES = (5000, 2)
"""Queries of Square: in a run, in a rehearsal."""
END_SECONDS = 3.0
"""Seconds kept for the end of the stage."""


@dataclass(frozen=True)
class Column:
    """A network in one state, and its attacks.

    Attributes:
        name: Its name in gpu.json.
        model: The network.
        rows: The attacks in order. Each is run on the pictures that withstood those before it.
        later: The attacks that are run after the rows of all columns, while there is time.
    """

    name: str
    model: SelfGradientNetwork
    rows: tuple[AnyAttack, ...]
    later: tuple[AnyAttack, ...] = ()


def attack(run: Run) -> None:
    """Attack batch after batch while there is time for another one. Record the accuracy so far after each attack.

    Raises:
        Skip: There is no GPU, there are no pictures, or there is no network.
    """
    device = run.device()
    columns = networks(run, device)
    chosen = choose_pictures(pictures.load(run, "test"), PICTURES[run.rehearse], SEED)
    images = to_float(chosen.images).to(device, memory_format=torch.channels_last)
    labels = chosen.labels.to(device)
    tf32 = "TF32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"
    run.record(eps=EPS, seed=SEED, pictures_wanted=len(labels), convolutions=tf32, data=run.settings.dataset_name)
    withstood: dict[str, dict[RowId, list[bool]]] = {
        column.name: {row.id: [] for row in (*column.rows, *column.later)} for column in columns
    }
    left = {column.name: torch.ones(len(labels), dtype=torch.bool) for column in columns}
    size = BATCH[run.rehearse]
    for later in (False, True):
        longest = 0.0
        for start in range(0, len(labels), size):
            # A batch may take a fifth longer than the one before, because more of its pictures withstand.
            if (start or later) and run.seconds_left() - END_SECONDS < 1.2 * longest:
                return
            began, some = time.monotonic(), slice(start, start + size)
            for column in columns:
                trial = measuring.Trial(column.model, images[some], labels[some], EPS, SEED, size)
                for row in column.later if later else column.rows:
                    # A view of the whole, so that it holds what is left for the column's next attack.
                    standing = left[column.name][some]
                    if standing.any():
                        standing[standing.clone()] = measuring.withstood(trial.chosen(standing), row)
                    withstood[column.name][row.id] += standing.tolist()
                    record(run, withstood)
            longest = max(longest, time.monotonic() - began)


def networks(run: Run, device: torch.device) -> list[Column]:
    """Return the columns of the networks that were trained.

    Raises:
        Skip: No network was trained.
    """
    columns = []
    for recipe, states in ((SELF_GRADIENT, (True, False)), (PLAIN, (False,)), (RESNET_18, (False,))):
        path = checkpoint(run.out, recipe)
        if path.is_file():
            model, _ = load_checkpoint(path)
            model.to(device).to(memory_format=torch.channels_last)
            model.requires_grad_(False)
            for block in states:
                name = f"{recipe.file}, {base.block_state(block)}" if recipe is SELF_GRADIENT else recipe.file
                whole = recipe is RESNET_18 and _has_auto_attack()
                later = rest_of_auto_attack(block, run.rehearse) if whole else ()
                columns.append(Column(name, model, rows(block, ITERATIONS[run.rehearse]), later))
    if not columns:
        raise Skip("no network was trained")
    return columns


def rows(block: bool, iterations: int) -> tuple[AnyAttack, ...]:
    """Return the attacks of one column: clean, APGD-CE and APGD-T. Without the package pyautoattack: clean, PGD and CW.

    Args:
        block: Whether the network has its block on.
        iterations: Steps of each attack.
    """
    if not _has_auto_attack():
        print("pyautoattack is not installed: attacking by PGD and CW instead")
        return (
            gradient_attack.clean_attack(block),
            gradient_attack.pgd_attack(iterations, block),
            gradient_attack.cw_attack(iterations, block),
        )
    return (
        gradient_attack.clean_attack(block),
        GradientStage("apgd-ce", block=block, iterations=iterations),
        GradientStage("apgd-t", block=block, iterations=iterations),
    )


def rest_of_auto_attack(block: bool, rehearse: bool) -> tuple[AnyAttack, ...]:
    """Return the attacks of AutoAttack that `rows` leaves out."""
    iterations, queries = ITERATIONS[rehearse], QUERIES[rehearse]
    return (GradientStage("fab-t", block=block, iterations=iterations), Square(block=block, queries=queries))


def _has_auto_attack() -> bool:
    return importlib.util.find_spec("pyautoattack") is not None


def record(run: Run, withstood: dict[str, dict[RowId, list[bool]]]) -> None:
    """Record every column's rows: accuracy with the number of pictures and the 95 % confidence interval.

    Args:
        run: The stage's view of the run.
        withstood: Whether each picture so far withstood an attack and all before it, by column and row.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    says = []
    for name, attacked in withstood.items():
        rows[name] = []
        for row, right in attacked.items():
            if right:
                low, high = interval_95(sum(right), len(right))
                rows[name].append(
                    {
                        "id": row.as_dict(),
                        "title": row.title,
                        "accuracy": round(sum(right) / len(right), 4),
                        "interval_95": [round(low, 4), round(high, 4)],
                        "pictures": len(right),
                    }
                )
        if rows[name]:
            last = rows[name][-1]
            low, high = (100 * end for end in last["interval_95"])
            share = f"{100 * last['accuracy']:.1f} % ({low:.1f} to {high:.1f})"
            says.append(f"{name} {share} of {last['pictures']} after {last['title']}")
    run.record("; ".join(says), rows=rows)


if __name__ == "__main__":
    sys.exit(main(attack))
