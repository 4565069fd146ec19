"""Compare defences with the static network inside them: what is claimed, what adaptive attacks leave, what it costs.

    python -m release.referee --data-root data --threads 1                           # every row, for days of a core
    python -m release.referee --data-root data --report results/bundled/self-gradient.json --first 300 --beta 20

DIR holds test/<class>/. All rows but two have the same static network, that of --ckpt with its block off. All have the
same pictures. A row is attacked by AutoAttack on the whole, as papers claim robustness, and by the adaptive attacks of
our report that fit it. A picture counts as withstood if it withstands all of them.

The rows `denoiser-static` and `gradient-denoiser` have a network of their own, which --denoiser names: one that
training's --method gradient-denoiser made. They are left out without it. The second is compared with the first.

With --report, what a report of the same checkpoint and pictures has of the rows `static` and `self-gradient` is taken
from there. --first judges the first of these pictures alone.

It writes results/referee.json and results/referee.md after every attack, and each row's report to runs/referee. The
same command goes on after the last batch that was done. A row with all of AutoAttack is shown, with the attacks that it
lacks.

The cost of an answer is counted in multiplications of one forward pass of the static network. The sign test compares a
row with the static network picture by picture, on the attacks that both had or that need a defence.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.command_line import ROOT, command_parser, thread_count, write_result
from benchmarks.provenance import commit
from release.bundle import BUNDLED
from release.gpu import flops
from release.referee_figures import Judged, figures, shown
from release.referee_rows import (
    ADAPTIVE,
    CONTENDERS,
    DENOISER,
    SELF_GRADIENT,
    STATIC,
    STATIC_TRANSFER,
    WHOLE,
    Contender,
)
from release.saved_report import read_report
from sgn_serve.common.command_parser import did_you_mean, folder_to_write
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import SHA256_KEY, file_sha256
from training.attacks.auto_attack import GradientStage
from training.attacks.names import FEWEST_CLASSES_FOR_DLR, split_names
from training.attacks.registry import AnyAttack, Context, build_attacks
from training.attacks.rows import CLEAN, RowId
from training.checkpoint import CheckpointInfo, load_checkpoint
from training.common import run_files
from training.common.devices import checked_device, device_name
from training.common.errors import TrainingError
from training.common.files import check_writable, write_atomically
from training.common.provenance import current_versions, today
from training.config import EPS
from training.data.batches import to_float
from training.data.loading import choose_pictures, load_pictures
from training.data.picture_set import PictureSet
from training.defend import defended
from training.evaluate import measuring
from training.evaluate.measuring import Trial
from training.evaluate.report import Earlier, Report, Row, json_values
from training.evaluate.row_plan import RowPlan
from training.evaluate.row_progress import BatchProgress
from training.networks.defences.build import DEFENCES
from training.networks.self_gradient import SelfGradientNetwork

RESULTS = ROOT / "results"
CHECKPOINT = BUNDLED / run_files.CHECKPOINT
SEED = 1  # the pictures of the bundled network's reports
SAME = (SHA256_KEY, "pictures", "pictures_sha256", "eps", "seed", "norm", "restarts")
"""Settings that a report must share with the run, so that its rows can be taken."""


class RefereeError(TrainingError):
    """A row that cannot be had, or a file of something else; the message names the fix."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint that rows are made of.

    Attributes:
        path: Its file.
        model: Its network, frozen.
        info: Its description.
    """

    path: Path
    model: SelfGradientNetwork
    info: CheckpointInfo


def sources_of(
    options: argparse.Namespace, model: SelfGradientNetwork, info: CheckpointInfo
) -> dict[str, LoadedCheckpoint]:
    """Return the checkpoints by the option that names each: "ckpt", and "denoiser" where it is given.

    Raises:
        RefereeError: The denoiser was trained by another method, or for other pictures or classes.
        CheckpointError: It cannot be read.
    """
    sources = {"ckpt": LoadedCheckpoint(options.ckpt, model, info)}
    if options.denoiser is not None:
        network, about = load_checkpoint(options.denoiser)
        if about.method != DENOISER or about.defence is not None:
            raise RefereeError(
                f"--denoiser {options.denoiser}: a network of method {about.method}"
                f"{'' if about.defence is None else ' with a defence around it'}; name the checkpoint that training "
                f"with --method {DENOISER} wrote"
            )
        if (about.class_names, about.image_size) != (info.class_names, info.image_size):
            raise RefereeError(f"--denoiser {options.denoiser}: it has other classes or pictures than {options.ckpt}")
        sources["denoiser"] = LoadedCheckpoint(options.denoiser, network.requires_grad_(False), about)
    return sources


def network_of(contender: Contender, source: LoadedCheckpoint) -> SelfGradientNetwork:
    """Return the network of a row, around the backbone of its checkpoint.

    Raises:
        RefereeError: It needs a block, and the checkpoint has none.
    """
    if contender.name in DEFENCES:
        return defended(source.model, source.info, DEFENCES[contender.name])[0].requires_grad_(False)
    if contender.name == SELF_GRADIENT and source.model.block is None:
        others = " ".join(row.name for row in CONTENDERS.values() if row.checkpoint == "ckpt" and row != contender)
        raise RefereeError(f"the checkpoint has no block, which the row {SELF_GRADIENT} needs; pass --rows {others}")
    return source.model


def attacks_of(contender: Contender, context: Context, options: argparse.Namespace) -> list[AnyAttack]:
    """Return the attacks of a row, clean first.

    Args:
        contender: The row.
        context: The budget, the classes and the sharpness of the surrogates.
        options: The options of the command line.

    Raises:
        AttackError: A name is unknown.
    """
    chosen = [name for name in contender.adaptive if options.adaptive is None or name in options.adaptive]
    names = [*options.whole, *(name for name in chosen if name != STATIC_TRANSFER)]
    attacks = build_attacks(names, replace(context, has_block=contender.state == "block on"))
    attacks = [attack for attack in attacks if attack.id.state == contender.state]
    if STATIC_TRANSFER in chosen and context.classes >= FEWEST_CLASSES_FOR_DLR:
        # Behind those that cost less, before those that are run on what is left.
        place = next((index for index, one in enumerate(attacks) if one.id.view == "smooth"), len(attacks))
        attacks.insert(place, GradientStage("apgd-t", view="first-pass", survivors_of=(CLEAN,)))
    return attacks


def attack_all(
    trial: Trial[SelfGradientNetwork],
    attacks: Sequence[AnyAttack],
    report: Report,
    path: Path,
    saved: Callable[[], None],
) -> None:
    """Run the attacks that a report lacks, and save the report after each.

    Args:
        trial: The network and the pictures.
        attacks: All attacks, in order.
        report: The report, which gets the rows.
        path: Its file. A file beside it keeps what the running attack has done.
        saved: Called after each attack.
    """
    if report.rows:
        report.save(path)  # rows of --report are not asked for again where it is not named
    progress = BatchProgress(path.with_name(f"{path.name}.row"), report.setting)
    progress.restore()
    plan = RowPlan(report, attacks, attacks, len(trial), trial.batch_size)
    while plan.rows:
        batch = plan.next_batch()
        if batch is not None:
            row = plan.row_of(batch)
            result = progress.find(row.attack, batch.pictures)
            if result is None:
                result = measuring.measure_batch(trial, row.attack, batch.pictures)
                progress.add(row.attack, batch.pictures, result)
            row.take(batch, result)
        for row in plan.finished():
            attacked = None if row.attacked.all() else row.attacked
            report.add(row.attack, row.right, attacked, core_seconds=round(row.core_seconds, 1))
            report.save(path)
            progress.forget(row.attack)
            name, accuracy = row.attack.id.title, report.rows[row.attack.id].accuracy
            print(f"{path.stem}: {name}: {accuracy:.1%}, {row.core_seconds:,.0f} s", flush=True)
            saved()


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("release.referee", __doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="image folder (default: data)")
    parser.add_argument("--ckpt", type=Path, default=CHECKPOINT, help="checkpoint (default: the bundled one)")
    parser.add_argument("--denoiser", type=Path, help=f"checkpoint of --method {DENOISER}, for the rows that need it")
    parser.add_argument("--report", type=Path, help="take what this report has of the checkpoint's own two rows")
    parser.add_argument("--rows", nargs="+", help="rows (default: all that have their checkpoint)")
    parser.add_argument(
        "--whole", nargs="+", default=list(WHOLE), help="attacks of every row (default: cw-20 autoattack)"
    )
    parser.add_argument("--adaptive", nargs="+", help="adaptive attacks (default: all that fit a row)")
    parser.add_argument("--beta", nargs="+", type=float, default=[5.0, 20.0, 100.0], help="sharpness of the surrogates")
    parser.add_argument("--pictures", type=int, default=1000, help="test pictures (default: %(default)s)")
    parser.add_argument("--first", type=int, help="judge the first of these pictures alone (default: all)")
    parser.add_argument("--batch", type=int, default=50, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--threads", type=thread_count, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--runs", type=Path, default=Path("runs/referee"), help="folder of the rows' reports")
    parser.add_argument(
        "--out", type=folder_to_write, default=RESULTS, help="folder of the results (default: results/)"
    )
    options = parser.parse_args(command_line)
    given = sys.argv[1:] if command_line is None else command_line
    options.command = shlex.join(["python", "-m", "release.referee", *given])
    missing = [row.name for row in CONTENDERS.values() if getattr(options, row.checkpoint) is None]
    options.left_out = missing if options.rows is None else []
    options.rows = options.rows or [name for name in CONTENDERS if name not in missing]
    for name in ("pictures", "first", "batch"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if any(beta <= 0 for beta in options.beta):
        parser.error("--beta must be above 0")
    return options


def check_names(options: argparse.Namespace) -> None:
    """Refuse unknown rows and attacks, before anything is read.

    Raises:
        RefereeError: A row is unknown or has no checkpoint, or an adaptive attack fits none.
        AttackError: An attack is unknown.
    """
    for name in options.rows:
        if name not in CONTENDERS:
            raise RefereeError(
                f"--rows: unknown row {name!r}; {did_you_mean(name, CONTENDERS)}known are: {', '.join(CONTENDERS)}"
            )
        if getattr(options, CONTENDERS[name].checkpoint) is None:
            raise RefereeError(
                f"--rows: {name} needs a network that was trained for it; name its checkpoint by --denoiser PATH"
            )
    split_names(options.whole)
    for name in options.adaptive or ():
        if name not in ADAPTIVE:
            raise RefereeError(f"--adaptive: {name} is none of {', '.join(ADAPTIVE)}")
    if "autoattack" not in options.whole:
        raise RefereeError("--whole: the claimed figure is AutoAttack's; name autoattack, and what you like beside it")


def setting_of(
    contender: Contender, source: LoadedCheckpoint, eps: float, options: argparse.Namespace, chosen: PictureSet
) -> dict[str, Any]:
    """Return everything that a row's figures depend on."""
    return {
        "row": contender.name,
        "defence": asdict(DEFENCES[contender.name]) if contender.name in DEFENCES else None,
        SHA256_KEY: file_sha256(source.path),
        "architecture": source.info.architecture,
        "data": source.info.dataset,
        "pictures": len(chosen),
        "pictures_sha256": chosen.sha256(),
        "norm": "L-inf",
        "eps": eps,
        "restarts": 1,
        "seed": SEED,
        "batch_size": options.batch,
    }


def spared_by(
    path: Path, whole: Mapping[str, Any], attacks: Sequence[AnyAttack], pictures: int
) -> tuple[dict[RowId, Row], list[Earlier]]:
    """Return the rows of a report of training.evaluate that these attacks need not measure again, and who did.

    A row is taken if its attack had the same parameters, and spared no more pictures than it would now.

    Args:
        path: The report.
        whole: The setting with all of the pictures that were drawn.
        attacks: The attacks.
        pictures: How many of the first pictures are judged.

    Raises:
        NoReportError: It is no report.
        RefereeError: It is of another checkpoint or other pictures.
    """
    saved = read_report(path)
    others = [name for name in SAME if saved.setting.get(name) != whole[name]]
    if others:
        raise RefereeError(f"--report {path}: it differs from this run in {', '.join(others)}; leave it out")
    taken = {}
    for attack in attacks:
        row, wanted = saved.rows.get(attack.id), json_values(attack.parameters())
        if row is None or {**row.attack, "survivors_of": None} != {**wanted, "survivors_of": None}:
            continue
        if all(one in wanted["survivors_of"] for one in row.attack["survivors_of"]):
            seconds = row.core_seconds if pictures == len(row.withstood) else None
            taken[attack.id] = Row(row.withstood[:pictures], row.attack, seconds)
    return taken, [Earlier(saved.about, tuple(taken))] if taken else []


def begun(
    setting: dict[str, Any],
    attacks: Sequence[AnyAttack],
    path: Path,
    spared: tuple[dict[RowId, Row], list[Earlier]],
    device: torch.device,
) -> Report:
    """Return a row's report with what is measured already.

    Args:
        setting: The setting of the row.
        attacks: Its attacks.
        path: The report of an earlier run, if there is one.
        spared: Rows that --report spares, and the command that measured them.
        device: What the rest is measured on.

    Raises:
        SavedReportError: The file is no report, or one of another setting.
    """
    about = {"command": "python -m release.referee", "versions": current_versions(), "git_commit": commit()}
    saved, earlier = spared
    report = Report(setting, {**about, "device": device_name(device), "date": today()}, earlier, dict(saved))
    report.take_over(path, attacks)
    wanted = {attack.id for attack in attacks}
    report.rows = {row: result for row, result in report.rows.items() if row in wanted}
    return report


def _missing(judged: Judged, attacks: Sequence[AnyAttack]) -> tuple[str, ...]:
    return tuple(attack.id.title for attack in attacks if attack.id not in judged.report.rows)


def referee(
    options: argparse.Namespace, model: SelfGradientNetwork, info: CheckpointInfo, drawn: PictureSet
) -> dict[str, Any]:
    """Judge the rows that are asked for, write the results after each attack, and return them.

    Args:
        options: The options of the command line.
        model: The checkpoint's network, frozen.
        info: Its description.
        drawn: The pictures that were drawn, of which the first ones may be asked for.

    Raises:
        TrainingError: A row cannot be judged, or something cannot be read or written.
    """
    check_names(options)
    chosen = drawn if options.first is None else drawn.subset(torch.arange(min(options.first, len(drawn))))
    context = Context(info.epsilon or EPS, has_block=True, classes=len(info.class_names), betas=tuple(options.beta))
    device = checked_device(options.device)
    images = to_float(chosen.images).to(device, memory_format=torch.channels_last)
    sources = sources_of(options, model, info)  # on the CPU, where their operations are counted
    # All that can fail does so before the first attack.
    rows = []
    for contender in CONTENDERS.values():
        source = sources.get(contender.checkpoint)
        if source is None:
            continue
        attacks = attacks_of(contender, context, options)
        setting, whole = (setting_of(contender, source, context.eps, options, some) for some in (chosen, drawn))
        spared: tuple[dict[RowId, Row], list[Earlier]] = {}, []
        if options.report is not None and contender.name in (STATIC, SELF_GRADIENT):
            spared = spared_by(options.report, whole, attacks, len(chosen))
        try:
            network = network_of(contender, source)
            report = begun(setting, attacks, options.runs / f"{contender.name}.json", spared, device)
        except TrainingError:
            if contender.name in options.rows:
                raise
            continue  # a row that nobody asked for, of another run
        with torch.no_grad():
            answer = partial(network, self_gradient=contender.state == "block on")
            plain = flops.of_network(source.model, info.image_size[0])["one pass"]
            cost = flops.of_function(answer, info.image_size[0]) / plain
        rows.append((Judged(contender, report, cost), network, attacks))
    options.runs.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "referee.json"
    check_writable(path)
    result: dict[str, Any] = {}

    def save() -> None:
        done = [replace(judged, missing=_missing(judged, attacks)) for judged, _, attacks in rows if judged.is_shown]
        by_name = {judged.contender.name: judged for judged in done}
        setting = setting_of(CONTENDERS[STATIC], sources["ckpt"], context.eps, options, chosen)
        result.update(
            command=options.command,
            versions=current_versions(),
            git_commit=commit(),
            checkpoints={name: file_sha256(source.path) for name, source in sources.items()},
            setting={name: setting[name] for name in setting if name not in ("row", "defence")},
            attacks={judged.contender.name: [attack.id.title for attack in attacks] for judged, _, attacks in rows},
            rows=[figures(judged, by_name.get(judged.contender.static or "")) for judged in done],
        )
        write_result(path, result)
        again = f"The same again:\n\n```sh\n{options.command}\n```\n"
        write_atomically(path.with_suffix(".md"), f"# The referee\n\n{shown(result)}\n\n{again}".encode())

    for judged, network, attacks in rows:
        if judged.contender.name not in options.rows:
            continue
        setting = judged.report.setting
        network.to(device).to(memory_format=torch.channels_last)
        trial = Trial(network, images, chosen.labels.to(device), setting["eps"], SEED, options.batch)
        attack_all(trial, attacks, judged.report, options.runs / f"{judged.contender.name}.json", save)
        judged.report.sort_rows([attack.id for attack in attacks])
    save()
    return result


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = parse(command_line)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        check_names(options)
        if options.left_out:
            say(f"without --denoiser these rows are left out: {', '.join(options.left_out)}")
        model, info = load_checkpoint(options.ckpt)
        test = load_pictures("image-folder", options.data_root, "test", info.recipe.get("image_size"), info.class_names)
        drawn = choose_pictures(test, options.pictures, SEED)
        print(shown(referee(options, model.requires_grad_(False), info, drawn)))
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
