"""Run a report: clean accuracy and the checks that cost little, then the attacks, then what the plots need."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sgn_serve.common.error_text import say
from training.attacks.base import AttackOn
from training.attacks.exported_graph import ExportedGraph
from training.attacks.rows import RowId
from training.common import run_files
from training.common.files import write_atomically
from training.evaluate import checks, measuring, plots
from training.evaluate.attack_bars import AttackBars, OneAfterTheOther, SideBySide, print_above
from training.evaluate.checklist import Finding, checklist, likely_overestimated
from training.evaluate.checks import Check
from training.evaluate.diagnostics import accuracy_curve, gradient_check
from training.evaluate.diagnostics.convergence import Iteration, measure_convergence
from training.evaluate.diagnostics.determinism import batch_dependence, randomness
from training.evaluate.diagnostics.slow_down import measure_slow_down
from training.evaluate.forward_passes import passes_shown
from training.evaluate.measuring import Trial
from training.evaluate.page import page
from training.evaluate.report import (
    BATCH_DEPENDENCE,
    BLOCK_EFFECT,
    CONVERGENCE,
    CURVE,
    GRADIENT_CORRELATION,
    RANDOMNESS,
    SLOW_DOWN,
    Report,
)
from training.evaluate.row_plan import Batch, PlannedRow, RowPlan
from training.evaluate.row_progress import BatchProgress, CheckProgress
from training.evaluate.runners import BatchDone, CheckDone, LocalRunner, Runner
from training.evaluate.saved_report import FIX
from training.networks.self_gradient import SelfGradientNetwork

# Enough pictures for a stable figure, few enough for seconds.
DETERMINISM_PICTURES = 32
CONVERGENCE_PICTURES = 100
SLOW_DOWN_PICTURES = 1000
GALLERY_PICTURES = 6


@dataclass
class Evaluation:
    """One network, its pictures, and the report that grows.

    Attributes:
        trial: The network, the pictures, the budget and the seed.
        class_names: Names of the classes, for the gallery.
        report: The report.
        path: File that the report is saved to after each attack.
        betas: Sharpness of the smooth surrogates.
        graph: The exported graph, where it is attacked too.
        progress: Whether progress is shown on standard error.
        fix: The fix for a report of something else at `path`, for messages.
        runner: Attacks the batches elsewhere, and knows the attacks that are run. None attacks them in this process.
    """

    trial: Trial[SelfGradientNetwork]
    class_names: tuple[str, ...]
    report: Report
    path: Path
    betas: tuple[float, ...]
    graph: ExportedGraph | None = None
    progress: bool = True
    fix: str = FIX
    runner: Runner | None = None
    _asked: tuple[RowId, ...] = ()
    _saved: int | None = None
    _running: tuple[str, CheckProgress, str] | None = None
    _planned: list[PlannedRow] = field(default_factory=list)

    def run(self, attacks: Sequence[AttackOn[Any]], whole_curve: bool = False) -> list[Finding]:
        """Run what a saved report does not have yet, and save it.

        Args:
            attacks: The attacks, in order.
            whole_curve: Measure accuracy at every budget of the plot, not at the one of the checklist alone.

        Raises:
            SavedReportError: A path holds a report of another setting or anything else; no attack was run.
        """
        done = self.report.take_over(self.path, attacks, self.fix)
        self._asked = tuple(attack.id for attack in attacks)
        self._saved = done if self.report.rows else None
        if done and self.progress:
            say(f"{self.path}: continuing after {done} of {len(attacks)} attacks")
        progress = BatchProgress(self._beside("row"), self.report.setting)
        progress.restore()
        # A report is saved from its first row on, and clean accuracy costs less than any check.
        self._attack(attacks, [attack for attack in attacks if attack.id.family == "clean"], progress)
        if self.runner is None:
            self._check_gradients(attacks)
        self._check_determinism()
        self._attack(attacks, attacks, progress, self._checks_elsewhere(attacks, whole_curve))
        progress.remove()
        CheckProgress(self._beside("check"), {}).remove()
        self.report.sort_rows([attack.id for attack in attacks])
        self._measure_curve(whole_curve)
        self._measure_block()
        self._measure_slow_down()
        self.report.sort_measured()
        findings = checklist(self.report)
        self.report.checklist = [finding.as_dict() for finding in findings]
        self.report.likely_overestimated = likely_overestimated(findings)
        self._save()
        return findings

    @property
    def resumption(self) -> str:
        """The continuation of the same command after an interruption now, by what is saved."""
        asked = len(self._asked)
        if self._running is not None and self._running[1].done:
            name, progress, whole = self._running
            return f"the same command continues in {name}, after {progress.done:,} of {whole}"
        begun = [row for row in self._planned if row.done]
        if len(begun) == 1 and begun == self._planned[:1]:
            (row,) = begun
            return f"the same command continues in {row.attack.id.label}, after {row.done:,} of {row.most:,} pictures"
        if begun:
            pictures, several = sum(row.done for row in begun), f"{len(begun)} others" if len(begun) > 1 else "another"
            return (
                f"the same command continues after {self._saved or 0} of {asked} attacks, and {pictures:,} pictures of "
                f"{several}"
            )
        if self._saved is None:
            return "nothing is saved yet, so the same command starts again"
        if self._saved < asked:
            return f"the same command continues after {self._saved} of {asked} attacks"
        return f"the same command continues after all {asked} attacks"

    def _save(self) -> None:
        """Save the report, which must have a row for that."""
        if self.report.rows:
            self.report.save(self.path)
            self._saved = sum(row in self.report.rows for row in self._asked)

    def measure_curve(self) -> None:
        """Measure accuracy at every budget of the plot, where the report does not have it yet."""
        self._measure_curve(whole=True)

    def write_page(self, folder: Path) -> list[str]:
        """Write the Markdown page `evaluation.md` and the plots, and return the names of the plots."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [
            name
            for name, plot in (
                ("accuracy_over_eps.png", plots.accuracy_over_eps),
                ("accuracy_over_steps.png", plots.accuracy_over_steps),
            )
            if plot(self.report, folder / name)
        ]
        some = self.trial.first(GALLERY_PICTURES)
        plots.gallery(
            some.model, some.images, checks.pgd_10(some), some.labels, self.class_names, folder / "gallery.png"
        )
        written.append("gallery.png")
        if self.trial.model.block is not None:
            iterations = self._measure_convergence()
            plots.convergence(iterations, folder / "convergence.png")
            written.append("convergence.png")
        findings = checklist(self.report)
        write_atomically(folder / run_files.PAGE, page(self.report, findings, written).encode())
        return written

    def _check_gradients(self, attacks: Sequence[AttackOn[Any]]) -> None:
        if self._has_gradients(attacks):
            return
        progress = CheckProgress(self._beside("check"), {"setting": self.report.setting})
        self._running = "the check of gradients", progress, f"{gradient_check.DIRECTIONS} directions"
        with self._bar() as bar:
            bar.reset(gradient_check.DIRECTIONS * min(len(self.trial), checks.GRADIENT_PICTURES))
            bar.set_description("checking gradients")
            shown = replace(self.trial, on_batch=bar.update)
            found = checks.check_gradients(shown, attacks, self.betas, progress)
        self._running = None
        self._take(found)
        progress.remove()

    def _has_gradients(self, attacks: Sequence[AttackOn[Any]]) -> bool:
        names = checks.gradient_views(self.trial, attacks, self.betas).keys()
        return names <= self.report.measured.get(GRADIENT_CORRELATION, {}).keys()

    def _take(self, found: dict[str, Any]) -> None:
        """Put the results of a check into the report, and save it. Those of earlier commands, of other names, stay."""
        if BLOCK_EFFECT in found:
            self.report.block_effect = found[BLOCK_EFFECT]
        measured = self.report.measured
        for name in found.keys() - {BLOCK_EFFECT}:
            measured[name] = measured.get(name, {}) | found[name]
        self._save()

    def _check_determinism(self) -> None:
        # Two pictures at least are needed to show whether an answer depends on the others in its batch.
        model = self.trial.model
        some = self.trial.images[: min(DETERMINISM_PICTURES, max(2, self.trial.batch_size))]
        if len(some) > 1 and BATCH_DEPENDENCE not in self.report.measured:
            self.report.measured[BATCH_DEPENDENCE] = batch_dependence(model, some)
        if RANDOMNESS not in self.report.measured:
            self.report.measured[RANDOMNESS] = randomness(model, some)

    def _beside(self, ending: str) -> Path:
        """Return the place of a file beside the report for what is measured in part."""
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _checks_elsewhere(self, attacks: Sequence[AttackOn[Any]], whole_curve: bool) -> list[Check]:
        """Return the checks that are measured beside the attacks, where these run elsewhere."""
        if self.runner is None:
            return []
        gradients = [] if self._has_gradients(attacks) else [checks.check_of_gradients(self.betas)]
        levels = [checks.check_of_curve(level) for level in self._missing_levels(whole_curve)]
        return [*gradients, *levels, *([checks.check_of_block()] if self._lacks_block_effect else [])]

    def _attack(
        self,
        attacks: Sequence[AttackOn[Any]],
        chosen_attacks: Sequence[AttackOn[Any]],
        progress: BatchProgress,
        other_checks: Sequence[Check] = (),
    ) -> None:
        """Run some of the attacks, but those whose rows are there, and save the report after each.

        Rows enter the report in the order of the attacks, whichever are done first. So a report that was interrupted
        has the same rows wherever its batches were attacked.

        Args:
            attacks: All of them, which number them.
            chosen_attacks: Those that are run.
            progress: The batches that an earlier process has saved, and those of this one.
            other_checks: Checks that are measured beside them.
        """
        plan = RowPlan(self.report, attacks, chosen_attacks, len(self.trial), self.trial.batch_size)
        if self.runner is not None:
            plan.put_longest_first(len(self.class_names))
        self._planned = plan.rows
        running = 0
        with ExitStack() as stack:
            bars = self._attack_bars(stack, len(attacks))
            runner: Runner = self.runner or LocalRunner(partial(self._do, attacks))
            waiting = list(other_checks)
            while plan.rows or waiting or running:
                while waiting and runner.has_room():
                    runner.submit(waiting.pop(0))
                    running += 1
                while runner.has_room() and (batch := plan.next_batch()) is not None:
                    row = plan.row_of(batch)
                    bars.show(row)
                    saved = progress.find(row.attack, batch.pictures)
                    if saved is None:
                        runner.submit(batch)
                        running += 1
                    else:
                        row.take(batch, saved)
                        bars.show(row, restored=True)
                for row in plan.finished():
                    self.report.add(
                        row.attack,
                        row.right,
                        None if row.attacked.all() else row.attacked,
                        core_seconds=round(row.core_seconds, 1),
                        not_finite=row.not_finite,
                    )
                    self._save()
                    progress.forget(row.attack)
                if not running:
                    continue
                done = runner.next()
                running -= 1
                if isinstance(done, CheckDone):
                    self._take(done.found)
                    if self.progress:
                        print_above(f"{done.check.name}: done")
                else:
                    row = plan.row_of(done.batch)
                    progress.add(row.attack, done.batch.pictures, done.result)
                    row.take(done.batch, done.result)
                    bars.show(row)

    def _attack_bars(self, stack: ExitStack, attacks: int) -> AttackBars:
        """Return the bars that show the attacks, which close with the stack."""
        if self.runner is not None:
            return stack.enter_context(SideBySide(self._bar, attacks))
        bar = stack.enter_context(self._bar())
        stack.enter_context(passes_shown(self.trial.model.backbone, bar))
        return OneAfterTheOther(bar, attacks)

    def _do(self, attacks: Sequence[AttackOn[Any]], work: Batch | Check) -> BatchDone | CheckDone:
        if isinstance(work, Check):
            return CheckDone(work, work.measure(self.trial, attacks))
        attack = attacks[work.row]
        return BatchDone(work, measuring.measure_batch(self._target(attack), attack, work.pictures))

    def _target(self, attack: AttackOn[Any]) -> Trial[Any]:
        if attack.id.state != "exported graph":
            return self.trial
        if self.graph is None:
            raise ValueError(f"{attack.id.label} needs the exported graph: --onnx")
        return self.trial.of(self.graph)

    def _missing_levels(self, whole: bool) -> list[int]:
        curve = self.report.measured.setdefault(CURVE, {})
        return [
            level for level in (accuracy_curve.LEVELS if whole else (accuracy_curve.LARGE,)) if str(level) not in curve
        ]

    def _measure_curve(self, whole: bool) -> None:
        with self._bar() as bar:
            for level in self._missing_levels(whole):
                bar.reset(2 * min(len(self.trial), checks.CURVE_PICTURES))
                bar.set_description(f"accuracy at eps {level}/255")
                self._take(checks.accuracy_at(replace(self.trial, on_batch=bar.update), [], level))

    @property
    def _lacks_block_effect(self) -> bool:
        return self.trial.model.block is not None and self.report.block_effect is None

    def _measure_block(self) -> None:
        if self._lacks_block_effect:
            with self._bar() as bar, passes_shown(self.trial.model.backbone, bar):
                bar.set_description("the block's effect")
                self._take(checks.effect_of_block(self.trial, []))

    def _measure_slow_down(self) -> None:
        model = self.trial.model
        if model.block is None or model.auto_margin is None or SLOW_DOWN in self.report.measured or len(self.trial) < 2:
            return
        self.report.measured[SLOW_DOWN] = measure_slow_down(self.trial.first(SLOW_DOWN_PICTURES)).as_dict()
        self.report.save(self.path)

    def _measure_convergence(self) -> dict[str, Iteration]:
        saved = self.report.measured.get(CONVERGENCE, {})
        if saved:
            return {name: Iteration.from_dict(values) for name, values in saved.items()}
        some = self.trial.first(CONVERGENCE_PICTURES)
        iterations = measure_convergence(some.model, some.images, some.eps, batch_size=some.batch_size)
        self.report.measured[CONVERGENCE] = {name: one.as_dict() for name, one in iterations.items()}
        self._save()
        return iterations

    def _bar(self, line: int | None = None, title: str | None = None, total: int | None = None) -> tqdm:
        """Return a bar, which is drawn already.

        Args:
            line: The line of the screen, from 0, of a bar that vanishes at its end. None is for one that stays.
            title: Text in front of it.
            total: Number of pictures.
        """
        options = {} if line is None else {"position": line if sys.stderr.isatty() else 0, "leave": False}
        return tqdm(
            desc=title,
            total=total,
            unit="picture",
            mininterval=0.5 if sys.stderr.isatty() else 60,
            disable=not self.progress,
            **options,
        )
