"""Measure self_gradient="auto" of the bundled network: its threshold, its saving, and what it withstands.

    python -m release.auto --data-root data       # half an hour on two quiet cores; it goes on where it was stopped

DIR holds train/<class>/ and test/<class>/. It writes results/auto.json:

- the threshold that 99.8 % agreement needs on the pictures that training held out, and what it does there;
- the same on all test pictures, and on some after PGD-20 on the block-on network;
- attacks on "auto" itself, each on what the ones before it left, so that the last figure is the lowest per picture;
- the lowest per picture of block on and block off on the same pictures, from results/bundled/self-gradient.json;
- an attack on the saving.

The option --publish writes the figures beside the bundled graph anew from results/, the threshold among them. The graph
itself stays as it is.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, thread_count, write_result
from export.auto_margin import AutoRequest, validation_pictures
from release.bundle import BUNDLED, summary
from sgn_serve.common.confidence import interval_95
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import SHA256_KEY, file_sha256
from training.attacks import gradient_attack
from training.attacks.registry import Context, build_attacks
from training.attacks.rows import RowFilter
from training.checkpoint import load_checkpoint
from training.common import run_files
from training.common.errors import TrainingError
from training.common.in_batches import in_batches
from training.common.provenance import current_versions, git_commit
from training.data.batches import to_float
from training.data.loading import choose_pictures, load_pictures
from training.data.picture_set import PictureSet
from training.evaluate import measuring
from training.evaluate.auto_margin import both_answers, effect_of_margin, smallest_auto_margin
from training.evaluate.diagnostics.slow_down import measure_slow_down
from training.evaluate.measuring import Trial
from training.evaluate.report import Report, saved_rows
from training.networks.self_gradient import SelfGradientNetwork

CHECKPOINT = BUNDLED / run_files.CHECKPOINT
RESULT = ROOT / "results" / "auto.json"
JUDGED = ROOT / "results" / "bundled" / "self-gradient.json"
AGREEMENT = 0.998
ATTACKS = ("pgd-20", "cw-20", "gate", "gate-transfer", "block-off-cw", "smooth-cw", "autoattack")
BETAS = (20.0,)
EVERY_ROW = RowFilter.like()


def measure_margin(model: SelfGradientNetwork, validation: PictureSet, test: PictureSet) -> dict[str, Any]:
    """Return the threshold from validation pictures, and what it does on them and on test pictures, as they are.

    The threshold is set on the model.
    """
    found = smallest_auto_margin(*both_answers(model, to_float(validation.images)), AGREEMENT)
    model.auto_margin = found.margin
    return {
        "asked_agreement": AGREEMENT,
        "margin": found.margin,
        "validation": found.as_dict(),
        "test": on_pictures(model, to_float(test.images), test.labels),
    }


def on_pictures(model: SelfGradientNetwork, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return what the threshold does on some pictures, with the accuracies of all three modes."""
    plain, corrected = both_answers(model, images)
    assert model.auto_margin is not None, "measure_margin sets it"
    effect = effect_of_margin(model.auto_margin, plain, corrected)
    auto = torch.where(model.needs_second_pass(plain)[:, None], corrected, plain)
    accuracies = {
        name: round((logits.argmax(dim=1) == labels).double().mean().item(), 4)
        for name, logits in (("auto", auto), ("block on", corrected), ("block off", plain))
    }
    return {**effect.as_dict(), "accuracy": accuracies}


def measure_pgd(trial: Trial[SelfGradientNetwork]) -> dict[str, Any]:
    """Return what the threshold does on pictures after PGD-20 on the block-on network."""
    torch.manual_seed(trial.seed)
    attack = gradient_attack.pgd_attack(20)
    attacked = in_batches(
        lambda images, labels: attack.perturb(trial.model, images, labels, trial.eps),
        trial.images,
        trial.labels,
        batch_size=trial.batch_size,
    )
    return on_pictures(trial.model, attacked, trial.labels)


def attack_auto(trial: Trial[SelfGradientNetwork], report: Report, path: Path) -> Iterator[list[str]]:
    """Attack "auto", each attack on what the rows before it left. The report is saved after each.

    Args:
        trial: The network and the pictures.
        report: The report. Rows that are in the file already are not run again.
        path: The report's file.

    Yields:
        The titles of the attacks that are still to be run, after each attack.

    Raises:
        SavedReportError: The file holds a report of another setting.
    """
    context = Context(trial.eps, True, trial.model(trial.images[:1]).shape[1], BETAS, auto=True)
    built: list[Any] = build_attacks(ATTACKS, context)
    attacks = [replace(attack, survivors_of=(EVERY_ROW,)) for attack in built if attack.block == "auto"]
    report.take_over(path, attacks)
    for attack in attacks:
        if attack.id in report.rows:
            continue
        chosen = report.survivors(attack, len(trial))
        right = torch.zeros(len(trial), dtype=torch.bool)
        if chosen.any():
            right[chosen] = measuring.withstood(trial.chosen(chosen), attack)
        report.add(attack, right, None if chosen.all() else chosen)
        report.save(path)
        say(f"{attack.id.label}: {report.lowest_of('auto'):.3f} left")
        yield [other.id.title for other in attacks if other.id not in report.rows]


def judged_before(chosen: PictureSet, test: PictureSet, judged: dict[str, Any]) -> dict[str, float]:
    """Return the lowest accuracy per picture of block on and off on some of the pictures that a report is of.

    Args:
        chosen: The pictures, drawn as the report's were, and not more.
        test: The pictures that both were drawn from.
        judged: The report.

    Raises:
        ValueError: The report's pictures are not drawn from these.
    """
    setting = judged["setting"]
    whole = choose_pictures(test, setting["pictures"], setting["seed"])
    if whole.sha256() != setting["pictures_sha256"]:
        raise ValueError("the report is of other pictures than those of --data-root")
    place = {picture.numpy().tobytes(): index for index, picture in enumerate(whole.images)}
    places = [place[picture.numpy().tobytes()] for picture in chosen.images]
    rows = saved_rows(judged)
    lowest = {}
    for state in ("block on", "block off"):
        right = measuring.lowest(row.right for one, row in rows.items() if one.state == state)
        lowest[state] = round(right[places].double().mean().item(), 4)
    return lowest


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.auto", __doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="image folder (default: data)")
    parser.add_argument(
        "--pictures", type=int, default=200, help="test pictures that are attacked (default: %(default)s)"
    )
    parser.add_argument("--pgd-pictures", type=int, default=500, help="test pictures for PGD-20 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--threads", type=thread_count, help="CPU threads (default: all cores)")
    add_out(parser, RESULT, "where the result goes")
    parser.add_argument("--publish", action="store_true", help="renew the figures beside the bundled graph, and end")
    return parser.parse_args(command_line)


def publish() -> None:
    """Write the figures beside the bundled graph anew, the threshold among them."""
    write_result(BUNDLED / "model.json", summary())


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = parse(command_line)
    if options.publish:
        publish()
        return 0
    if options.threads:
        torch.set_num_threads(options.threads)
    measure(options, ["python -m release.auto", *(sys.argv[1:] if command_line is None else command_line)])
    return 0


class AutoError(TrainingError):
    """A result that does not go with what is asked for now; the message names the fix."""


def usable(result: dict[str, Any], checkpoint_sha256: str, pgd_pictures: int, attacked_pictures: int) -> dict[str, Any]:
    """Return what a result has measured on this checkpoint, with as many pictures as are asked for now.

    Args:
        result: The result.
        checkpoint_sha256: Digest of the checkpoint's file.
        pgd_pictures: Pictures of PGD-20 and of the attack on the saving.
        attacked_pictures: Pictures of the attacks on "auto".

    Raises:
        AutoError: Other pictures were attacked. That is not thrown away, because it takes longest.
    """
    if result.get(SHA256_KEY) != checkpoint_sha256:
        return {}
    before = result.get("attacked", {}).get("pictures", attacked_pictures)
    if before != attacked_pictures:
        raise AutoError(f"{before} pictures were attacked before; pass --pictures {before}, or another --out")
    parts = ("pgd_20", "slow_down")
    return {name: part for name, part in result.items() if name not in parts or part["pictures"] == pgd_pictures}


def measure(options: argparse.Namespace, command: list[str]) -> None:
    """Measure everything and write the result, after each part and each attack.

    Figures of another checkpoint, or of another number of pictures, are measured anew.

    Raises:
        TrainingError: The checkpoint or the pictures cannot be read, or what is there is of others.
    """
    stored: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}

    def save(**parts: Any) -> None:
        result.update(parts)
        write_result(options.out, result)

    model, info = load_checkpoint(CHECKPOINT)
    model.requires_grad_(False)
    test = load_pictures("image-folder", options.data_root, "test", None, info.class_names)
    digest, judged = file_sha256(CHECKPOINT), json.loads(JUDGED.read_text())
    setting = judged["setting"]
    if setting[SHA256_KEY] != digest:
        raise AutoError(f"{JUDGED} is of another network than {CHECKPOINT}; judge that one first")
    result = usable(stored, digest, min(options.pgd_pictures, len(test)), min(options.pictures, len(test)))
    if dropped := sorted(name for name in stored.keys() - result.keys() if isinstance(stored[name], dict)):
        told = f"of another network or of other counts, so measured anew: {', '.join(dropped)}"
        say(f"{options.out}: {told}")
    if "margin" not in result:
        validation = validation_pictures(info, AutoRequest(AGREEMENT, options.data_root))
        save(margin=measure_margin(model, validation, test), checkpoint_sha256=digest)
    model.auto_margin = result["margin"]["margin"]

    def trial(count: int) -> tuple[PictureSet, Trial[SelfGradientNetwork]]:
        chosen = choose_pictures(test, count, setting["seed"])
        return chosen, Trial(
            model, to_float(chosen.images), chosen.labels, setting["eps"], setting["seed"], options.batch
        )

    save(
        command=" ".join(command),
        checkpoint_sha256=digest,
        data=info.dataset,
        versions=current_versions(),
        git_commit=git_commit(),
    )
    _, some = trial(options.pgd_pictures)
    if "pgd_20" not in result:
        save(pgd_20=measure_pgd(some))
    if "slow_down" not in result:
        save(slow_down=measure_slow_down(some).as_dict())
    chosen, attacked = trial(options.pictures)
    report = Report(setting={**setting, **own_setting(chosen, options.batch, model)})
    before = judged_before(chosen, test, judged)
    for to_come in attack_auto(attacked, report, options.out.with_suffix(".rows.json")):
        save(attacked=_attacked(report, before, to_come))


def own_setting(chosen: PictureSet, batch: int, model: SelfGradientNetwork) -> dict[str, Any]:
    """Return what the report's setting has of its own, in the place of what block on and off were judged with."""
    return {
        "pictures": len(chosen),
        "pictures_sha256": chosen.sha256(),
        "batch_size": batch,
        "auto_margin": model.auto_margin,
    }


def _attacked(report: Report, before: dict[str, float], to_come: list[str]) -> dict[str, Any]:
    """Return the attacked figures for the result.

    Args:
        report: The attacks on "auto" so far.
        before: The lowest accuracies per picture of the other modes.
        to_come: Titles of the attacks that were not run yet.
    """
    lowest = report.lowest_of("auto")
    assert lowest is not None, "clean accuracy comes first"
    low, high = interval_95(round(lowest * report.pictures()), report.pictures())
    return {
        "pictures": report.pictures(),
        "seed": report.setting["seed"],
        "eps": report.setting["eps"],
        "rows": [
            {"id": one.as_dict(), "title": one.title, "left": round(row.accuracy, 4)}
            for one, row in report.rows.items()
        ],
        "lowest": {"auto": round(lowest, 4), **before},
        "interval_95": [round(low, 4), round(high, 4)],
        "not_run": to_come,
    }


if __name__ == "__main__":
    sys.exit(main())
