"""Train recipes of release.speedrun beside each other, for the epochs that a processor has time for, and judge them.

A GPU has no processor minutes. So each recipe trains for as many epochs as it would get in --core-minutes on one core,
by the cost of its steps there. It is judged as release.speedrun does, on the same validation pictures. Small networks
leave most of a GPU idle, so the recipes share it; their times say nothing.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from release.gpu import pictures
from release.gpu.attacks import ITERATIONS, rows
from release.gpu.stage import ARCHITECTURES, Run, Skip, main
from release.recipes import COMMON, CORE_MINUTES_OF_AN_EPOCH, COSTS, RECIPES
from sgn_serve.common.confidence import interval_95
from training.checkpoint import load_checkpoint, save_checkpoint
from training.common.files import write_atomically
from training.data.batches import to_float
from training.data.loading import choose_pictures, split_indices
from training.evaluate import measuring
from training.loop.state import TrainerError
from training.loop.trainer import Trainer
from training.options import configure, parse

ARCH = "wrn-16-2"
PICTURES = (500, 10)
"""Validation pictures that decide: in a run, in a rehearsal."""
END_SECONDS = 3.0
"""Seconds kept for the end of the stage."""
STAGE = "recipes"


def compare(run: Run) -> None:
    """Train and judge all recipes at the same time, each in a process of its own. Record each one that is done.

    Raises:
        Skip: There is no GPU, or there are no pictures.
    """
    run.device()
    pictures.load(run, "train")
    recipes = list(run.settings.recipes or COSTS)[: 2 if run.rehearse else None]
    children = {}
    for recipe in recipes:
        command = [sys.executable, "-m", "release.gpu.recipes", "--name", f"{STAGE}/{recipe}"]
        command += ["--settings", str(run.work / "settings.json"), "--deadline", str(run.deadline)]
        children[recipe] = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = {}
    while any(child.poll() is None for child in children.values()) and run.seconds_left() > END_SECONDS:
        time.sleep(1)
        found = record(run, recipes)
    found = record(run, recipes)
    for recipe, child in children.items():
        if child.poll() is None:
            child.kill()
            child.wait()
            found.setdefault(recipe, {})["problem"] = "the time was up"
        elif child.returncode:
            found.setdefault(recipe, {})["problem"] = f"exit status {child.returncode}; see log.txt"
    run.record(recipes=found, arch=ARCH, core_minutes=run.settings.core_minutes)
    if not any("lowest" in figures for figures in found.values()):
        raise SystemExit("no recipe was trained and judged: " + "; ".join(_problems(found)))


def _problems(found: dict[str, Any]) -> list[str]:
    return [f"{recipe}: {figures['problem']}" for recipe, figures in found.items() if "problem" in figures]


def record(run: Run, recipes: list[str]) -> dict[str, Any]:
    """Record the figures of the recipes so far, and return them by recipe."""
    files = {recipe: result_file(run, recipe) for recipe in recipes}
    found = {recipe: json.loads(file.read_text()) for recipe, file in files.items() if file.is_file()}
    judged = {recipe: figures for recipe, figures in found.items() if "lowest" in figures}
    order = sorted(judged, key=lambda recipe: -judged[recipe]["lowest"])
    says = [f"{recipe} {100 * judged[recipe]['lowest']:.1f}" for recipe in order]
    run.record(f"lowest in percent: {', '.join(says)}" if says else "", recipes=found)
    return found


def result_file(run: Run, recipe: str) -> Path:
    """Return the file that a recipe's process writes its figures to."""
    return run.work / STAGE / f"{recipe}.json"


def try_recipe(run: Run, recipe: str) -> None:
    """Train one recipe and judge the epoch that is kept. Write its figures after each epoch and attack."""
    device = run.device()
    file = result_file(run, recipe)
    file.parent.mkdir(exist_ok=True)
    epochs = 2 if run.rehearse else max(2, round(run.settings.core_minutes / CORE_MINUTES_OF_AN_EPOCH / COSTS[recipe]))
    flags = [
        "--dataset",
        "image-folder",
        "--data-root",
        "data",
        "--arch",
        ARCHITECTURES[True] if run.rehearse else ARCH,
    ]
    flags += ["--epochs", str(epochs), *COMMON, *RECIPES[recipe].flags]
    if run.rehearse:
        flags += ["--batch-size", "16", "--validation-pictures", "20", "--validation-attacked", "10"]
        flags += ["--crop-padding", "1"]
    arguments = parse(flags)
    config = configure(arguments, device)
    chosen = pictures.load(run, "train")
    figures: dict[str, Any] = {"epochs": epochs, "about": RECIPES[recipe].about, "training": flags}
    began = time.monotonic()
    trainer = Trainer(config, chosen, run.work / STAGE / recipe, device)
    try:
        for epoch in trainer.train():
            figures |= {"epochs_done": epoch, "training_seconds": round(time.monotonic() - began, 1)}
            write_atomically(file, json.dumps(figures).encode())
    except TrainerError as error:  # after a collapse the best network so far is judged
        if trainer.progress.epoch == 0:
            raise
        figures["problem"] = str(error)
    model, info = load_checkpoint(trainer.checkpoint_path)
    kept = run.out / STAGE / f"{recipe}.safetensors"
    kept.parent.mkdir(exist_ok=True)
    save_checkpoint(kept, model.state_dict(), info)
    figures["checkpoint"] = str(kept.relative_to(run.out))
    model.to(device).to(memory_format=torch.channels_last)
    model.requires_grad_(False)
    _, held_out = split_indices(chosen, config.validation_pictures, config.seed)
    judged = choose_pictures(chosen.subset(held_out), PICTURES[run.rehearse], config.seed, strict=False)
    images = to_float(judged.images).to(device, memory_format=torch.channels_last)
    trial = measuring.Trial(model, images, judged.labels.to(device), config.epsilon, config.seed, 250)
    left = torch.ones(len(judged), dtype=torch.bool)
    figures |= {"kept_epoch": info.history["epoch"], "pictures": len(judged), "rows": []}
    for row in rows(False, ITERATIONS[run.rehearse]):
        if left.any():
            left[left.clone()] = measuring.withstood(trial.chosen(left), row)
        marks = "".join("1" if right else "0" for right in left.tolist())
        accuracy = round(left.float().mean().item(), 4)
        figures["rows"].append({"id": row.id.as_dict(), "title": row.id.title, "accuracy": accuracy, "right": marks})
        write_atomically(file, json.dumps(figures).encode())
    count = int(left.sum())
    figures |= {"lowest": round(count / len(left), 4), "interval_95": interval_95(count, len(left))}
    write_atomically(file, json.dumps(figures).encode())


def work(run: Run) -> None:
    """Do what the process's name says: the stage, or one recipe of it.

    Raises:
        Skip: There is no GPU, there are no pictures, or the recipe is unknown.
    """
    stage, _, recipe = run.name.partition("/")
    if not recipe:
        compare(run)
    elif stage == STAGE and recipe in COSTS:
        try_recipe(run, recipe)
    else:
        raise Skip(f"no such recipe: {recipe}")


if __name__ == "__main__":
    sys.exit(main(work))
