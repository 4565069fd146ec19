"""Compare cheaper attacks with AutoAttack on a plain network: what withstands each, and for how many network calls.

    python -m release.fast_judge --data-root data --report results/bundled/self-gradient.json     # half a core-hour
    python -m release.fast_judge --data-root data --ckpt runs/plain/model.safetensors             # some core-hours

The network is attacked with its block off. DIR holds test/<class>/. Two cascades are run on the same pictures, batch by
batch: AutoAttack's four, and the attacks of --fast. Each attack is run on what those before it in its cascade left.
malt-K attacks the K nearest classes, without those of an earlier malt. With --report, AutoAttack's answers are taken
from a report of the same network and pictures.

It writes results/fast_judge.json after every attack of a batch, and the same command goes on where it was stopped. For
each prefix of a cascade the file has its accuracy and its calls. `missed` are the pictures that AutoAttack took and the
prefix did not, `found` those the other way round. `p` is of the sign test on these.

A call is a picture shown to the network. A second gradient from the same call counts as another one. The calls of a
report's AutoAttack were not counted. They are at least what the pictures cost that withstood each attack.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.command_line import ROOT, add_out, command_parser, thread_count, write_result
from benchmarks.provenance import commit
from release.bundle import BUNDLED
from release.paired import sign_test
from release.saved_report import read_report
from sgn_serve.common.confidence import interval_95
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import SHA256_KEY, file_sha256
from sgn_serve.common.markdown import table
from training.attacks.malt import Malt
from training.attacks.registry import AnyAttack, Context, build_attacks
from training.checkpoint import CheckpointInfo, load_checkpoint
from training.common import run_files
from training.common.errors import TrainingError
from training.common.files import check_writable
from training.common.provenance import current_versions
from training.config import EPS
from training.data.batches import to_float
from training.data.loading import choose_pictures, load_pictures
from training.data.picture_set import PictureSet
from training.evaluate.measuring import Trial, withstood
from training.networks.self_gradient import SelfGradientNetwork

RESULT = ROOT / "results" / "fast_judge.json"
CHECKPOINT = BUNDLED / run_files.CHECKPOINT
AUTO_ATTACK, FAST = "AutoAttack", "fast"
CASCADE = ("pma", "malt-1", "malt-3")
SEED = 1  # the pictures of the bundled network's reports
SAME = (SHA256_KEY, "pictures", "pictures_sha256", "eps", "seed")
"""Settings that a report must share with the run, so that its answers can be compared."""


class FastJudgeError(TrainingError):
    """A file is of something else, or an attack cannot be had; the message names the fix."""


@dataclass
class Calls:
    """Pictures that a network was shown.

    Attributes:
        count: The pictures. Each gradient after the first of a call counts as another call.
    """

    count: int = 0


@contextmanager
def counted(backbone: nn.Module) -> Iterator[Calls]:
    """Count the calls of a network."""
    calls = Calls()

    def count(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        pictures, gradients = len(logits), 0
        calls.count += pictures

        def count_gradient(_gradient: Tensor) -> None:
            nonlocal gradients
            gradients += 1
            if gradients > 1:
                calls.count += pictures

        if logits.requires_grad:
            logits.register_hook(count_gradient)

    handle = backbone.register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


@dataclass
class Row:
    """An attack's result, and what it cost.

    Attributes:
        left: A character for each picture done so far: 1 where it withstood this attack and those before it.
        calls: Network calls on these pictures; at least so many, where they were not counted.
    """

    left: str = ""
    calls: int = 0


@dataclass(frozen=True)
class Cascade:
    """Attacks by name, each run on what the ones before it left, and their rows so far.

    Attributes:
        attacks: The attacks, clean first.
        rows: The rows, in the same order.
    """

    attacks: Mapping[str, AnyAttack]
    rows: dict[str, Row] = field(default_factory=dict)

    def run(self, trial: Trial[SelfGradientNetwork], start: int, save: Callable[[], None]) -> None:
        """Attack a batch with what was not run on it yet.

        Args:
            trial: The network and all of the pictures.
            start: The batch's first picture.
            save: Called after each attack.
        """
        some = slice(start, start + trial.batch_size)
        # A seed of its own for each batch: a run that was stopped ends with the figures of one that was not.
        batch = replace(trial, images=trial.images[some], labels=trial.labels[some], seed=trial.seed + start)
        left = torch.ones(len(batch), dtype=torch.bool)
        for name, attack in self.attacks.items():
            row = self.rows.setdefault(name, Row())
            if len(row.left) <= start:
                if left.any():
                    with counted(trial.model.backbone) as calls:
                        left[left.clone()] = withstood(batch.chosen(left), attack)
                    row.calls += calls.count
                row.left += "".join("1" if one else "0" for one in left.tolist())
                save()
            left = torch.tensor([one == "1" for one in row.left[some]])


def auto_attack(context: Context) -> dict[str, AnyAttack]:
    """Return AutoAttack's cascade by title, clean first."""
    return {attack.id.title: attack for attack in build_attacks(["autoattack"], context)}


def fast_attacks(names: Sequence[str], context: Context) -> dict[str, AnyAttack]:
    """Return the cascade of --fast by name, clean first.

    Raises:
        AttackError: A name is unknown, or its attack cannot be had for so few classes.
        FastJudgeError: A malt-K has no class left to attack, or a name stands for several attacks.
    """
    attacks: dict[str, AnyAttack] = {"clean": build_attacks(["clean"], context)[0]}
    attacked = 0
    for name in names:
        kind, _, count = name.partition("-")
        if kind == "malt" and count.isascii() and count.isdecimal():
            build_attacks(["malt"], context)
            if int(count) <= attacked:
                raise FastJudgeError(
                    f"--fast {' '.join(names)}: {name} has no class left; let K rise from malt to malt"
                )
            attacks[name] = Malt(int(count), attacked, block=False)
            attacked = int(count)
            continue
        built = build_attacks([name], context)[1:]
        if len(built) != 1:
            raise FastJudgeError(f"--fast {name}: it is {len(built)} attacks and not one; name them one by one")
        attacks[name] = built[0]
    return attacks


def from_report(path: Path, setting: Mapping[str, Any], attacks: Mapping[str, AnyAttack]) -> dict[str, Row]:
    """Return AutoAttack's rows of a report, with the calls that they cost at least.

    Args:
        path: The report.
        setting: The setting of the comparison.
        attacks: AutoAttack's cascade, as auto_attack returns it.

    Raises:
        NoReportError: It is no report.
        FastJudgeError: It is one of something else, or lacks one of the four.
    """
    report = read_report(path)
    found = {one: row for one, row in report.rows.items() if one.state == "block off"}
    others = [name for name in SAME if report.setting.get(name) != setting[name]]
    if others:
        raise FastJudgeError(f"--report {path}: it differs from this run in {', '.join(others)}; leave it out")
    rows: dict[str, Row] = {}
    left = [True] * setting["pictures"]
    for title, attack in attacks.items():
        row = next((row for one, row in found.items() if one == attack.id), None)
        if row is None:
            raise FastJudgeError(
                f"--report {path}: it lacks {title}; run `--attacks autoattack` on it, or leave it out"
            )
        left = [was and mark == "1" for was, mark in zip(left, row.withstood, strict=True)]
        marks = "".join("1" if one else "0" for one in left)
        rows[title] = Row(marks, sum(left) * attack.network_calls(setting["classes"]))
    return rows


def compare(cascades: Mapping[str, Mapping[str, Row]]) -> list[dict[str, Any]]:
    """Return a row for each prefix of both cascades, on the pictures that both are done with.

    Args:
        cascades: The rows of both sides.

    Returns:
        Side, attack, accuracy and its 95 % interval, and calls a picture of each. Then the comparison with the whole of
        AutoAttack: the share of the calls, the pictures missed and found, and the p-value of the sign test.
    """
    done = _done(cascades)
    if not done:
        return []
    last = list(cascades[AUTO_ATTACK].values())[-1].left[:done]
    whole = _calls(cascades[AUTO_ATTACK].values())
    compared = []
    for side, rows in cascades.items():
        for index, (name, row) in enumerate(rows.items()):
            left = row.left[:done]
            missed = sum(mine == "1" and other == "0" for mine, other in zip(left, last, strict=True))
            found = sum(mine == "0" and other == "1" for mine, other in zip(left, last, strict=True))
            calls = _calls(list(rows.values())[: index + 1])
            compared.append(
                {
                    "side": side,
                    "attack": name,
                    "accuracy": round(left.count("1") / done, 4),
                    "interval_95": [round(bound, 4) for bound in interval_95(left.count("1"), done)],
                    "calls_per_picture": round(calls, 1),
                    "share_of_calls": round(calls / whole, 4) if whole else None,
                    "missed": missed,
                    "found": found,
                    "p": round(sign_test(missed, found), 4),
                }
            )
    return compared


def _done(cascades: Mapping[str, Mapping[str, Row]]) -> int:
    """Return the number of pictures that every attack of both sides is done with."""
    return min(len(row.left) for rows in cascades.values() for row in rows.values())


def _calls(rows: Iterable[Row]) -> float:
    """Return the calls that some rows of a cascade took for a picture, together."""
    return sum(row.calls / len(row.left) for row in rows)


def shown(result: Mapping[str, Any]) -> str:
    """Return the comparison as a Markdown table, with the number of pictures."""
    rows = [
        (
            row["side"],
            row["attack"],
            f"{100 * row['accuracy']:.1f}",
            f"{row['calls_per_picture']:,.0f}",
            "-" if row["share_of_calls"] is None else f"{100 * row['share_of_calls']:.1f} %",
            str(row["missed"]),
            str(row["found"]),
            f"{row['p']:.2f}",
        )
        for row in result["compared"]
    ]
    header = ("cascade", "up to", "withstand, %", "calls a picture", "of AutoAttack's calls", "missed", "found", "p")
    at_least = "" if result["calls_counted"] else "; AutoAttack's calls are at least so many, the shares at most"
    return f"{result['done']:,} of {result['setting']['pictures']:,} pictures{at_least}\n\n" + table(
        header, rows, "llrrrrrr"
    )


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.fast_judge", __doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="image folder (default: data)")
    parser.add_argument("--ckpt", type=Path, default=CHECKPOINT, help="checkpoint (default: the bundled one)")
    parser.add_argument("--report", type=Path, help="take AutoAttack's answers from this report, and do not run it")
    parser.add_argument("--fast", nargs="+", default=list(CASCADE), metavar="A", help="attacks of the fast cascade")
    parser.add_argument("--pictures", type=int, default=1000, help="test pictures (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=50, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin no further batch after so many minutes")
    parser.add_argument("--threads", type=thread_count, help="CPU threads (default: all cores)")
    add_out(parser, RESULT, "where the result goes")
    options = parser.parse_args(command_line)
    for name in ("pictures", "batch"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = parse(command_line)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        model, info = load_checkpoint(options.ckpt)
        test = load_pictures("image-folder", options.data_root, "test", info.recipe.get("image_size"), info.class_names)
        chosen = choose_pictures(test, options.pictures, SEED)
        print(shown(measure(options, model.requires_grad_(False), info, chosen)))
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    return 0


def measure(
    options: argparse.Namespace, model: SelfGradientNetwork, info: CheckpointInfo, chosen: PictureSet
) -> dict[str, Any]:
    """Run both cascades batch by batch, save after each attack, and return the result.

    Raises:
        NoReportError: The report is none.
        FastJudgeError: The report, or what was saved before, is of something else.
        AttackError: An attack cannot be had.
        WriteError: The result cannot be written.
    """
    eps, classes = info.epsilon or EPS, len(info.class_names)
    context = Context(eps, has_block=False, classes=classes)
    setting = {
        SHA256_KEY: file_sha256(options.ckpt),
        "data": info.dataset,
        "pictures": len(chosen),
        "pictures_sha256": chosen.sha256(),
        "eps": eps,
        "seed": SEED,
        "classes": classes,
        "batch": options.batch,
    }
    cascades = {
        AUTO_ATTACK: Cascade(auto_attack(context)),
        FAST: Cascade(fast_attacks(options.fast, context)),
    }
    setting["attacks"] = {side: list(cascade.attacks) for side, cascade in cascades.items()}
    setting["report"] = None if options.report is None else options.report.name
    if options.report is not None:
        cascades[AUTO_ATTACK].rows.update(from_report(options.report, setting, cascades[AUTO_ATTACK].attacks))
    check_writable(options.out)
    _restore(options.out, setting, cascades)
    result: dict[str, Any] = {}

    def save() -> None:
        rows = {side: cascade.rows for side, cascade in cascades.items()}
        whole = all(cascade.attacks.keys() == cascade.rows.keys() for cascade in cascades.values())
        compared = compare(rows) if whole else []
        result.update(
            command="python -m release.fast_judge",
            versions=current_versions(),
            git_commit=commit(),
            setting=setting,
            calls_counted=options.report is None,
            done=_done(rows) if whole else 0,
            compared=compared,
            rows={side: {name: vars(row) for name, row in of_side.items()} for side, of_side in rows.items()},
        )
        write_result(options.out, result)

    images = to_float(chosen.images).contiguous(memory_format=torch.channels_last)
    trial = Trial(model, images, chosen.labels, eps, SEED, options.batch)
    began = time.monotonic()
    for start in range(0, len(trial), options.batch):
        if start and options.minutes is not None and time.monotonic() - began > 60 * options.minutes:
            break
        for cascade in cascades.values():
            cascade.run(trial, start, save)
    save()
    return result


def _restore(path: Path, setting: Mapping[str, Any], cascades: Mapping[str, Cascade]) -> None:
    """Take over the rows of a result that was saved before.

    Raises:
        FastJudgeError: It is of something else.
    """
    if not path.exists():
        return
    try:
        saved = json.loads(path.read_bytes())
    except (OSError, ValueError):
        saved = None
    if not _is_result(saved, cascades):
        raise FastJudgeError(f"{path} is no result of this command; pass another --out, or move it away")
    others = [name for name in setting if saved["setting"].get(name) != setting[name]]
    if others:
        raise FastJudgeError(f"{path} differs from this run in {', '.join(others)}; pass another --out")
    for side, cascade in cascades.items():
        cascade.rows.update({name: Row(**row) for name, row in saved["rows"][side].items()})


def _is_result(saved: Any, cascades: Iterable[str]) -> bool:
    """Tell whether a JSON value has the setting and the rows that `measure` saves."""
    if not isinstance(saved, dict) or not all(isinstance(saved.get(part), dict) for part in ("setting", "rows")):
        return False
    sides = [saved["rows"].get(side) for side in cascades]
    return all(isinstance(rows, dict) and all(map(_is_row, rows.values())) for rows in sides)


def _is_row(row: Any) -> bool:
    kinds = {one.name: one.type for one in fields(Row)}
    return isinstance(row, dict) and {name: type(value) for name, value in row.items()} == kinds


if __name__ == "__main__":
    sys.exit(main())
