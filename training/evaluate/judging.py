"""Judge any module from Python: attacks, diagnostics and the report of the command line, on pictures in memory."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import numpy as np
import torch
from torch import Tensor, nn

from training.attacks.registry import Context, build_attacks
from training.attacks.views import plain_is_full
from training.common import run_files
from training.common.command_line import OptionError, flag
from training.common.described_options import described_options
from training.common.devices import device_name
from training.common.files import check_writable
from training.common.provenance import current_versions, git_commit, today
from training.evaluate.any_module import (
    JudgeError,
    as_network,
    being_judged,
    check_answers,
    checked_images,
    checked_labels,
    device_of,
    module_sha256,
    tensors_sha256,
)
from training.evaluate.checklist import BOTH_PASSES, Finding
from training.evaluate.measuring import Trial
from training.evaluate.options import Options, report_place
from training.evaluate.page import summary
from training.evaluate.report import FORMAT, Report, Row
from training.evaluate.run import Evaluation
from training.evaluate.saved_report import read_saved
from training.networks.self_gradient import SelfGradientNetwork


class JudgeOptions(TypedDict, total=False):
    """Options of judge that are seldom needed. The first four have the defaults of `python -m training.evaluate`.

    Attributes:
        seed: Seed of the attacks' starts.
        batch_size: Pictures that are attacked at once.
        restarts: Restarts of PGD-K and CW-K.
        beta: Sharpness of the smooth surrogates, for a network with a block.
        class_names: Names of the classes, for the page.
        data: Name of the pictures, for the report.
        progress: Whether progress is shown on standard error; True.
    """

    seed: int
    batch_size: int
    restarts: int
    beta: Sequence[float]
    class_names: Sequence[str]
    data: str
    progress: bool


@dataclass(frozen=True)
class Judgement:
    """The robustness report of a module. `print` shows it as the command line does.

    Attributes:
        report: The rows, measurements and settings.
        findings: The items of the masking checklist.
    """

    report: Report
    findings: tuple[Finding, ...]
    _evaluation: Evaluation

    @property
    def lowest(self) -> float:
        """The lowest accuracy per picture, in [0, 1]: pictures that are right and withstood every attack."""
        return self.report.headline()

    @property
    def likely_overestimated(self) -> bool:
        """Whether the checklist says that the figures are likely too high."""
        return bool(self.report.likely_overestimated)

    @property
    def rows(self) -> dict[str, Row]:
        """The result of each attack, by its title; with a block, "block on" or "block off" stands before it."""
        several = len(self.report.states()) > 1
        return {(row.label if several else row.title): result for row, result in self.report.rows.items()}

    def __str__(self) -> str:
        """Return the table, the headline and the checklist as text."""
        return summary(self.report, self.findings)

    def to_json(self, path: str | PathLike[str]) -> None:
        """Write the report as JSON, in place of a report that is there.

        Args:
            path: A .json file.

        Raises:
            JudgeError: It is another kind of file.
            SavedReportError: Something else than a report is there.
            WriteError: The file cannot be written.
        """
        file = _named(path, "to_json")
        if file.suffix != ".json":
            raise JudgeError(f"to_json({str(path)!r}): a report is a .json file; name one, such as report.json")
        read_saved(file, FORMAT, {}, "pass another path, or delete that file", in_part=True)
        self.report.save(file)

    def page(self, folder: str | PathLike[str]) -> Path:
        """Write the JSON, a Markdown page and the plots, and return the page's path.

        Accuracy at every budget of the plot is measured for it, which takes as long as a few attacks.

        Raises:
            JudgeError: The folder's name is empty.
            SavedReportError: The folder holds a report of something else.
            WriteError: A file cannot be written.
        """
        evaluation, folder = self._evaluation, _named(folder, "page")
        read_saved(folder / run_files.REPORT, FORMAT, self.report.setting, "pass another folder, or delete that file")
        trial = evaluation.trial
        with being_judged(trial.model, trial.images.device, trial.seed):
            evaluation.path = folder / run_files.REPORT
            evaluation.measure_curve()
            self.report.save(evaluation.path)
            evaluation.write_page(folder)
        return folder / run_files.PAGE


@dataclass(frozen=True)
class RunOptions:
    """The options of judging a module, besides its trial.

    Attributes:
        path: File that the report is saved to after each attack.
        restarts: Restarts of PGD-K and CW-K.
        betas: Sharpness of the smooth surrogates.
        progress: Whether progress is shown on standard error.
        command: The command that the report names.
        fix: The fix for a report of something else that is there, for messages.
    """

    path: Path
    restarts: int = Options.restarts
    betas: tuple[float, ...] = Options.beta
    progress: bool = True
    command: str = "training.evaluate.judge"
    fix: str = "pass another save=, or delete that file to measure anew"


@dataclass(frozen=True)
class ModuleFacts:
    """Facts of a module and its pictures, for the report.

    Attributes:
        name: Name of the module.
        class_names: Names of the classes. Empty where nobody has named them.
        classes_from: The source of their names, for messages.
        data: Name of the pictures. "" where nobody has named them.
        more: Other entries of the report's setting.
    """

    name: str
    class_names: tuple[str, ...] = ()
    classes_from: str = "class_names"
    data: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


def module_evaluation(trial: Trial[SelfGradientNetwork], facts: ModuleFacts, run: RunOptions) -> Evaluation:
    """Check a module on the first pictures, and return its evaluation, whose report has no rows yet.

    Torch's global generator is set to the trial's seed.

    Raises:
        JudgeError: The module does not answer as it should.
    """
    torch.manual_seed(trial.seed)
    logits = check_answers(trial, facts.class_names, facts.classes_from)
    module = trial.model if trial.model.block is not None else trial.model.backbone
    setting: dict[str, Any] = {
        "architecture": facts.name,
        "module_sha256": module_sha256(module),
        # The weights do not say what forward does with them. These answers change when it does something else.
        "answers_sha256": tensors_sha256(logits.argmax(dim=1)),
        "data": facts.data,
        "pictures": len(trial),
        "norm": "L-inf",
        "eps": trial.eps,
        "restarts": run.restarts,
        "seed": trial.seed,
        "batch_size": trial.batch_size,
        "pictures_sha256": tensors_sha256(trial.images, trial.labels),
        **facts.more,
    }
    setting |= plain_gradient_setting(trial)
    about = {
        "command": run.command,
        "versions": current_versions(),
        "git_commit": git_commit(),
        "date": today(),
        "device": device_name(trial.images.device),
    }
    names = facts.class_names or tuple(map(str, range(logits.shape[1])))
    return Evaluation(trial, names, Report(setting, about), run.path, run.betas, progress=run.progress, fix=run.fix)


def plain_gradient_setting(trial: Trial[SelfGradientNetwork]) -> dict[str, str]:
    """Return the setting's entry where the rows whose view is "held" go through both passes; none elsewhere."""
    return {"plain_gradient": BOTH_PASSES} if plain_is_full(trial.model, trial.images) else {}


def judge(
    module: nn.Module,
    images: Any,
    labels: Any,
    eps: float = Options.eps,
    attacks: str | Sequence[str] = "quick",
    save: str | PathLike[str] | None = None,
    **options: Unpack[JudgeOptions],
) -> Judgement:
    """Attack a module, and report what it withstands and whether to believe it.

    The module stays as it was: its mode, its parameters' requires_grad and torch's generators are restored. It is
    judged in evaluation mode, on the device that it is on. Gradients flow through all that its forward does, so
    normalisation belongs into the module.

    Args:
        module: Maps images in [0, 1], (N, 3, H, W), to logits, (N, classes). A SelfGradientNetwork is judged with its
            block on and off.
        images: (N, 3, H, W) float32 in [0, 1], or (N, 1, H, W): a tensor or an array.
        labels: (N), indices of the classes. The checks and plots take the first pictures, so shuffle sorted ones.
        eps: L-inf budget, in units of pixel intensity.
        attacks: Presets and names as of `--attacks`: "quick", "autoattack,square", ["paper", "restarts"].
        save: A .json file, or a folder for `evaluation.json`. The report is saved there after each attack, and a call
            that was interrupted continues there after its last batch. None saves nothing.
        options: See JudgeOptions.

    Returns:
        The report.

    Raises:
        JudgeError: The module, the pictures or an option are not as they must be. The message names the fix.
        AttackError: An attack is unknown, or does not apply to this module.
        SavedReportError: `save` holds a report of something else.
        WriteError: The report cannot be saved.
    """
    names = _checked_names(attacks)
    network, pictures = as_network(module), checked_images(images)
    indices = checked_labels(labels, len(pictures))
    device = device_of(module, pictures.device)
    eps, given = _checked_options(eps, options)
    path = _report_path(save)
    if path is not None:
        check_writable(path)
    names_of_classes = tuple(given.get("class_names", ()))
    facts = ModuleFacts(type(module).__qualname__, names_of_classes, data=given.get("data", ""))
    with ExitStack() as stack:
        seed = given.get("seed", Options.seed)
        stack.enter_context(being_judged(network, device, seed))
        trial = Trial(
            model=network,
            images=pictures.to(device, copy=True).contiguous(),  # ordinary tensors, even if made in inference mode
            labels=indices.to(device, copy=True),
            eps=eps,
            seed=seed,
            batch_size=given.get("batch_size", Options.batch_size),
        )
        run = RunOptions(
            path=path or Path(stack.enter_context(tempfile.TemporaryDirectory())) / run_files.REPORT,
            restarts=given.get("restarts", Options.restarts),
            betas=tuple(given.get("beta", Options.beta)),
            progress=given.get("progress", True),
        )
        evaluation = module_evaluation(trial, facts, run)
        context = Context(eps, network.block is not None, len(evaluation.class_names), run.betas, run.restarts)
        whole_curve = any("full" in name.split(",") for name in names)
        findings = evaluation.run(build_attacks(names, context), whole_curve)
    return Judgement(evaluation.report, tuple(findings), evaluation)


def _checked_names(attacks: Any) -> list[str]:
    """Return the names of presets and attacks.

    Raises:
        JudgeError: They are no texts, or none.
    """
    names = [attacks] if isinstance(attacks, str) else list(attacks) if isinstance(attacks, Iterable) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise JudgeError(f'attacks must be names of presets and attacks, such as "quick", not {attacks!r}')
    return names


def _report_path(save: str | PathLike[str] | None) -> Path | None:
    if save is None:
        return None
    try:
        return report_place(_named(save, "save"), "save=")[0]
    except OptionError as error:
        raise JudgeError(str(error)) from None


def _named(path: str | PathLike[str], what: str) -> Path:
    """Return a path, which must not be empty: that would be the current folder.

    Raises:
        JudgeError: It is.
    """
    if not str(path).strip():
        raise JudgeError(f"{what}: the path is empty; name a file or a folder")
    return Path(path)


def _checked_options(eps: float, options: JudgeOptions) -> tuple[float, JudgeOptions]:
    """Return eps and the options of judge, checked as those of the command line. NumPy's numbers become Python's.

    Raises:
        JudgeError: One is out of range, or no number.
        TypeError: One is unknown.
    """
    unknown = options.keys() - JudgeOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"judge() has no argument {min(unknown)!r}; it has {', '.join(JudgeOptions.__annotations__)}")
    checks = {item.name: item for item in described_options(Options)}
    given: dict[str, Any] = {"eps": eps, **options}
    for name in checks.keys() & given.keys():
        kind = checks[name].kind
        if kind in ("integer", "number"):
            given[name] = _number(name, given[name], whole=kind == "integer")
        elif kind == "numbers":
            values = given[name] if isinstance(given[name], Iterable) else (given[name],)
            given[name] = tuple(_number(name, value, whole=False) for value in values)
        try:
            checks[name].option.check(name, given[name])
        except OptionError as error:
            raise JudgeError(str(error).replace(flag(name), name)) from None
    eps = given.pop("eps")
    return eps, cast(JudgeOptions, given)


def _number(name: str, value: Any, *, whole: bool) -> Any:
    """Return a number of Python's, NumPy's or torch's as Python's.

    Raises:
        JudgeError: It is no number, or no whole one.
    """
    number = value.item() if isinstance(value, np.generic) or (isinstance(value, Tensor) and not value.dim()) else value
    if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
        raise JudgeError(f"{name} must be a {'whole ' if whole else ''}number, not {str(value)[:60]!r}")
    return number
