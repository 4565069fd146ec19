"""Load everything that an evaluation needs, and check that it fits together before any costly work."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import SHA256_KEY, file_sha256
from training.attacks.base import AttackOn
from training.attacks.black_box import SourceNetwork
from training.attacks.exported_graph import ExportedGraph
from training.attacks.registry import Context, build_attacks
from training.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint
from training.common.command_line import OptionError
from training.common.devices import checked_device, default_device, device_name
from training.common.files import check_writable
from training.common.in_batches import in_batches
from training.common.provenance import current_versions, git_commit, today
from training.data.automatic_split import Part
from training.data.batches import to_float
from training.data.datasets import IMAGE_FOLDER
from training.data.loading import choose_pictures, load_pictures
from training.data.picture_folder import is_undivided
from training.data.picture_set import DatasetError, PictureSet
from training.evaluate.any_module import as_network
from training.evaluate.gradient_oracle import FORMAT as ORACLE_FORMAT
from training.evaluate.judging import ModuleFacts, RunOptions, module_evaluation, plain_gradient_setting
from training.evaluate.measuring import Trial
from training.evaluate.module_file import load_module
from training.evaluate.options import PICTURES, Options, module_name
from training.evaluate.page import WHOLE_FOLDER
from training.evaluate.report import FORMAT, Report
from training.evaluate.run import Evaluation
from training.evaluate.saved_report import FIX, read_saved
from training.foreign.kind import is_foreign
from training.foreign.loading import UNKNOWN, build_foreign, tell
from training.foreign.recognising import recognise
from training.networks.backbones import usual_image_size
from training.networks.gradient_oracle import GradientOracle
from training.networks.self_gradient import SelfGradientNetwork

CHECKED_PICTURES = 100
"""Pictures that the network must answer with finite logits before anything is measured."""


@dataclass(frozen=True)
class Prepared:
    """An evaluation that is ready to run.

    Attributes:
        evaluation: The evaluation; its network may be a gradient oracle.
        attacks: The attacks, in order.
        folder: Folder for the page and the plots, None where none is asked for.
        whole_curve: Whether accuracy is measured at every budget of the plot.
        files: The file of each picture, where they come from a folder; else empty.
    """

    evaluation: Evaluation
    attacks: Sequence[AttackOn[SelfGradientNetwork]]
    folder: Path | None
    whole_curve: bool
    files: tuple[Path, ...]


def prepare(options: Options, command: str) -> Prepared:
    """Load and check everything that an evaluation needs.

    Args:
        options: The options of the command line.
        command: The command line, for the report.

    Raises:
        TrainingError: Something is missing or does not fit; the message is one line that names the fix.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    path, folder = options.output_paths()
    check_writable(path)
    device = _device(options)
    if options.ckpt is None:
        return _prepare_module(options, command, device)
    if is_foreign(options.ckpt):
        model, info, chosen = _load_foreign(options, options.ckpt)
    else:
        model, info = load_checkpoint(options.ckpt)
        chosen = None
    _to_device(model, device)
    if options.auto_margin is not None:
        if model.block is None:
            raise OptionError("--auto-margin is for a network with a block; leave it out")
        model.auto_margin = options.auto_margin
    checkpoint_sha256 = file_sha256(options.ckpt)
    known = _known_setting(options, info, checkpoint_sha256)
    _check_saved(path, ORACLE_FORMAT if isinstance(model, GradientOracle) else FORMAT, known)
    graph, context = None, _context(options, info, model)
    if options.onnx is not None:
        graph = ExportedGraph(options.onnx, checkpoint_sha256, options.threads or 0)
        own = SourceNetwork(model, "the checkpoint", checkpoint_sha256)
        context = replace(context, checkpoint=own, graph_sha256=file_sha256(options.onnx))
    names = list(options.attacks)
    if options.transfer_from is not None:
        context = replace(context, transfer=_load_source(options.transfer_from, info, device))
        names.append("transfer-from")
    attacks = build_attacks(names, context)
    if chosen is None:
        chosen = _load_pictures(options, info)
    trial = Trial(
        model=model,
        images=to_float(chosen.images).to(device, memory_format=torch.channels_last),
        labels=chosen.labels.to(device),
        eps=options.eps,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    _check_logits(options.ckpt, trial)
    if isinstance(model, GradientOracle) and options.ray is not None:
        raise OptionError("--ray: a gradient oracle has two figures and no rows; leave that out")
    report = Report(
        setting=_setting(known, chosen, trial),
        about={
            "command": command,
            "versions": current_versions(),
            "git_commit": git_commit(),
            "date": today(),
            "device": device_name(device),
            "core_seconds_of_training": info.history.get("core_seconds"),
            **_about_pictures(_reader(options, info), options.data_root, chosen),
        },
    )
    evaluation = Evaluation(trial, info.class_names, report, path, context.betas, graph)
    return Prepared(evaluation, attacks, folder, folder is not None or "full" in names, chosen.files)


def _device(options: Options) -> torch.device:
    """Return the device of this process. On Ray, GPUs belong to the batches.

    Raises:
        DeviceError: There is no such device.
    """
    if options.ray is not None:
        return torch.device("cpu")
    return checked_device(options.device or default_device())


def _prepare_module(options: Options, command: str, device: torch.device) -> Prepared:
    """Load and check the network of --module and its pictures.

    Raises:
        TrainingError: Something is missing or does not fit.
    """
    network = as_network(load_module(options.module or "")).to(device).eval().requires_grad_(False)
    reader, root = options.dataset or "", options.data_root
    path, folder = options.output_paths()
    facts = {"split": options.split, "reader": reader}
    known = {"architecture": module_name(options.module or ""), **_run_setting(options), **facts}
    _check_saved(path, FORMAT, known)
    part = Part(options.split, None)  # nobody trained it here on a part of the folder
    pictures = load_pictures(reader, root, part, options.image_size, None, options.resize or "stretch")
    chosen = _choose(options, pictures)
    trial = Trial(
        model=network,
        images=to_float(chosen.images).to(device),
        labels=chosen.labels.to(device),
        eps=options.eps,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    run = RunOptions(path, options.restarts, options.beta, command=command, fix=FIX)
    module = ModuleFacts(
        name=module_name(options.module or ""),
        class_names=chosen.class_names,
        classes_from=f"the class folders of --data-root {root}" if reader == IMAGE_FOLDER else f"--dataset {reader}",
        data=_data(reader, root),
        more=facts,
    )
    evaluation = module_evaluation(trial, module, run)
    evaluation.report.about.update(_about_pictures(reader, root, chosen))
    context = Context(options.eps, network.block is not None, len(chosen.class_names), run.betas, options.restarts)
    attacks = build_attacks(list(options.attacks), context)
    return Prepared(evaluation, attacks, folder, folder is not None or "full" in options.attacks, chosen.files)


def _about_pictures(reader: str, root: Path, pictures: PictureSet) -> dict[str, Any]:
    """Return what a report says of pictures that nothing divides into splits; nothing for others."""
    whole = reader == IMAGE_FOLDER and pictures.split is None and is_undivided(root)
    return {WHOLE_FOLDER: True} if whole else {}


def _data(reader: str, root: Path) -> str:
    """Return what pictures are called where the network does not say it: the folder's name, or the data set's."""
    return root.absolute().name if reader == IMAGE_FOLDER else reader


def _to_device(network: SelfGradientNetwork, device: torch.device) -> None:
    network.to(device).to(memory_format=torch.channels_last)
    network.requires_grad_(False)


def _load_foreign(options: Options, path: Path) -> tuple[SelfGradientNetwork, CheckpointInfo, PictureSet]:
    """Load weights of another program, and the pictures, whose classes and size theirs are.

    Raises:
        WeightsError: They leave something open, or are for other classes or another size.
        DatasetError: The pictures cannot be read, or are not of one size.
    """
    found = recognise(path, "--ckpt")
    found.require_normalisation("--ckpt")
    reader = options.dataset or ""
    side = options.image_size or (usual_image_size(found.arch) if reader == IMAGE_FOLDER else None)
    tell(found, side)
    resize = options.resize or "stretch"
    part = Part(options.split, None)  # the same as for a module
    pictures = load_pictures(reader, options.data_root, part, side, None, resize)
    size = (pictures.images.shape[2], pictures.images.shape[3])
    network, info = build_foreign(found, pictures.class_names, size, "--ckpt")
    data = _data(reader, options.data_root)
    recipe = {**info.recipe, "dataset": reader, "image_size": side}
    info = replace(info, dataset=data, resize=resize, split=pictures.split, recipe=recipe)
    return network, info, _choose(options, pictures)


def _load_source(path: Path, info: CheckpointInfo, device: torch.device) -> SourceNetwork:
    """Load the --transfer-from network.

    Raises:
        CheckpointError, WeightsError: It cannot be loaded.
        DatasetError: Its classes are not those of the checkpoint that is judged.
    """
    flag = "--transfer-from"
    if is_foreign(path):
        found = recognise(path, flag)
        network, description = build_foreign(found, info.class_names, info.image_size, flag)
        tell(found)
    else:
        network, description = load_checkpoint(path, flag=flag)
    _to_device(network, device)
    _check_classes(path, description.class_names, info)
    return SourceNetwork(network, f"{description.method} {description.architecture}", file_sha256(path))


def _check_classes(path: Path, names: Sequence[str], info: CheckpointInfo) -> None:
    if tuple(names) == info.class_names:
        return
    if len(names) != len(info.class_names):
        difference = f"it has {len(names)} classes and the checkpoint {len(info.class_names)}"
    else:
        difference = f"its classes are not the checkpoint's ({', '.join(info.class_names)})"
    raise DatasetError(f"{path}: {difference}; use what the network was trained on ({info.dataset})")


def _check_logits(path: Path, trial: Trial[SelfGradientNetwork]) -> None:
    """Check on some of the pictures that the network answers with numbers, block off and block on.

    Raises:
        CheckpointError: It does not.
    """
    some = trial.first(CHECKED_PICTURES)
    with torch.no_grad():
        both = [in_batches(trial.model.plain_logits, some.images, batch_size=some.batch_size)]
        both.append(in_batches(trial.model, some.images, batch_size=some.batch_size))
    bad = int((~torch.cat(both, dim=1).isfinite().all(dim=1)).sum())
    if bad:
        raise CheckpointError(
            f"{path}: its logits are NaN or infinite for {bad} of {len(some)} pictures, although its weights are "
            "finite, so there is nothing to judge; pass a checkpoint of another epoch or run to --ckpt"
        )


def _context(options: Options, info: CheckpointInfo, model: SelfGradientNetwork) -> Context:
    return Context(
        eps=options.eps,
        has_block=model.block is not None,
        classes=len(info.class_names),
        betas=tuple(options.beta),
        restarts=options.restarts,
        auto=model.block is not None and model.auto_margin is not None,
    )


def _load_pictures(options: Options, info: CheckpointInfo) -> PictureSet:
    """Load the pictures that are attacked.

    Raises:
        DatasetError: They cannot be read, or are not of the network's size or classes.
    """
    reader, image_size = _reader(options, info), info.recipe.get("image_size")
    part = Part(options.split, info.split)
    pictures = load_pictures(reader, options.data_root, part, image_size, info.class_names, info.resize)
    chosen = _choose(options, pictures)
    found = (chosen.images.shape[2], chosen.images.shape[3])
    if found != info.image_size:
        raise DatasetError(
            f"{options.data_root}: pictures of {found[1]}x{found[0]}, but the checkpoint is for "
            f"{info.image_size[1]}x{info.image_size[0]}; give it pictures of that size"
        )
    return chosen


def _choose(options: Options, pictures: PictureSet) -> PictureSet:
    """Draw as many pictures as are asked for. Where nobody asks, say when there are fewer than usual.

    Raises:
        DatasetError: A class has too few pictures for what is asked for.
    """
    wanted = options.pictures or PICTURES
    chosen = choose_pictures(pictures, wanted, options.seed, strict=options.pictures is not None)
    if len(chosen) < wanted:
        say(
            f"all {len(chosen):,} pictures of the {options.split} part are judged, which is less than {wanted:,}",
        )
    return chosen


def _reader(options: Options, info: CheckpointInfo) -> str:
    reader: str = options.dataset or info.recipe["dataset"]
    return reader


def _known_setting(options: Options, info: CheckpointInfo, checkpoint_sha256: str) -> dict[str, Any]:
    """Return what the figures depend on besides the pictures."""
    return {
        SHA256_KEY: checkpoint_sha256,
        "architecture": info.architecture,
        "method": info.method,
        **({} if info.defence is None else {"defence": asdict(info.defence)}),
        "data": _data(_reader(options, info), options.data_root) if info.dataset == UNKNOWN else info.dataset,
        "split": options.split,
        **_run_setting(options),
        "reader": _reader(options, info),
    }


def _run_setting(options: Options) -> dict[str, Any]:
    """Return the options that figures depend on, for any network."""
    return {
        "norm": "L-inf",
        "eps": options.eps,
        "restarts": options.restarts,
        "seed": options.seed,
        "batch_size": options.batch_size,
    }


def _setting(known: dict[str, Any], chosen: PictureSet, trial: Trial[SelfGradientNetwork]) -> dict[str, Any]:
    """Return everything that the figures depend on."""
    setting = {**known, "pictures": len(chosen), "pictures_sha256": chosen.sha256()}
    setting |= plain_gradient_setting(trial)
    if trial.model.block is not None and trial.model.auto_margin is not None:
        setting["auto_margin"] = trial.model.auto_margin
    return setting


def _check_saved(path: Path, file_format: str, known: dict[str, Any]) -> None:
    """Check a saved report by what is known of the setting before any picture is read.

    Raises:
        SavedReportError: It is of another setting or none at all.
    """
    read_saved(path, file_format, known, in_part=True)
