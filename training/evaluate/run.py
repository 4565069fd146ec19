"""Runs a report: the checks that cost seconds first, then the attacks, then what the plots need."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.attacks import gradient_attack, views
from training.attacks.base import AttackOn, Classifier
from training.attacks.exported_graph import STATE as GRAPH_STATE
from training.attacks.exported_graph import ExportedGraph
from training.attacks.gradient_attack import Attack
from training.attacks.pgd import cross_entropy, margin
from training.attacks.rows import row_key
from training.common.in_batches import in_batches
from training.evaluate import measuring, plots
from training.evaluate.checklist import (
    BOTH_PASSES,
    PLAIN_GRADIENT,
    Finding,
    checklist,
    likely_overestimated,
    smooth_gradient,
)
from training.evaluate.diagnostics import accuracy_curve, gradient_check
from training.evaluate.diagnostics.block_effect import measure_block_effect
from training.evaluate.diagnostics.convergence import Iteration, measure_convergence
from training.evaluate.diagnostics.determinism import batch_dependence, randomness
from training.evaluate.forward_passes import passes_shown
from training.evaluate.page import headline_sentence, page, warning
from training.evaluate.report import Report
from training.evaluate.row_progress import RowProgress
from training.evaluate.saved_report import FIX_OF_OTHERS
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork

# Enough pictures for a stable figure, few enough for seconds.
GRADIENT_PICTURES = 100
CONSISTENCY_PICTURES = 32
CURVE_PICTURES = 250
BLOCK_PICTURES = 500
CONVERGENCE_PICTURES = 100
GALLERY_PICTURES = 6


@dataclass
class Evaluation:
    """One network, its pictures, and the report that grows.

    images:      (N, 3, H, W) float32 in [0, 1]; labels (N)
    report:      its setting says epsilon and seed
    path:        where the report is saved after each attack
    others:      saved reports of the same setting, whose rows are taken over too
    betas:       sharpness of the smooth surrogates
    batch_size:  pictures that the network sees at once
    graph:       the exported graph, where it is attacked too
    """

    model: SelfGradientNetwork
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    report: Report
    path: Path
    betas: tuple[float, ...]
    batch_size: int = 250
    graph: ExportedGraph | None = None
    others: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        self.eps: float = self.report.setting["eps"]
        self.seed: int = self.report.setting["seed"]

    def run(self, attacks: Sequence[AttackOn[Any]], whole_curve: bool = False) -> list[Finding]:
        """Runs what a saved report does not have yet, saves, prints.

        whole_curve: accuracy at every budget of the plot, not at the one of the checklist alone
        raises ValueError, before any attack, where a path holds a report of another setting or anything else
        """
        done = self.report.take_over(self.path, attacks)
        for other in self.others:
            done += self.report.take_over(other, attacks, FIX_OF_OTHERS)
        if done:
            print(f"{self.path}: going on after {done} of {len(attacks)} attacks", file=sys.stderr)
        self._check_gradients(attacks)
        self._check_consistency()
        self._attack(attacks)
        self.report.sort_rows([row_key(attack) for attack in attacks])
        self._measure_curve(whole_curve)
        self._measure_block()
        findings = checklist(self.report)
        self.report.checklist = [finding.as_dict() for finding in findings]
        self.report.likely_overestimated = likely_overestimated(findings)
        self.report.save(self.path)
        self._print(findings)
        return findings

    def gradient_views(self, attacks: Sequence[AttackOn[Any]]) -> dict[str, LogitsFunction]:
        """What the attacks' gradients are taken of, by name; the one of the paper's attacks and AutoAttack first."""
        if self.model.block is None:
            return {PLAIN_GRADIENT: self.model}
        averaged = {
            smooth_gradient(attack.beta, averaged=True): attack.logits_function(self.model, self.images)
            for attack in attacks
            if isinstance(attack, Attack) and attack.view == "smooth" and attack.beta and attack.noise_samples > 1
        }
        smooth = {smooth_gradient(beta): views.smooth_view(self.model, beta) for beta in self.betas}
        return {
            PLAIN_GRADIENT: views.plain_view(self.model, self.images),
            BOTH_PASSES: views.full_view(self.model),
            **smooth,
            **averaged,
        }

    def write_page(self, folder: Path) -> None:
        """The Markdown page and the plots, beside the JSON file."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [
            name
            for name, plot in (
                ("accuracy_over_eps.png", plots.accuracy_over_eps),
                ("accuracy_over_steps.png", plots.accuracy_over_steps),
            )
            if plot(self.report, folder / name)
        ]
        some = slice(0, min(GALLERY_PICTURES, len(self.labels)))
        plots.gallery(
            self.model,
            self.images[some],
            self._pgd_10(some),
            self.labels[some],
            self.class_names,
            folder / "gallery.png",
        )
        written.append("gallery.png")
        if self.model.block is not None:
            iterations = self._measure_convergence()
            plots.convergence(iterations, folder / "convergence.png")
            written.append("convergence.png")
        findings = checklist(self.report)
        (folder / "evaluation.md").write_text(page(self.report, findings, written))
        print(f"wrote {folder / 'evaluation.md'} and {len(written)} plots")

    def _check_gradients(self, attacks: Sequence[AttackOn[Any]]) -> None:
        found = self.gradient_views(attacks)
        if found.keys() <= self.report.measured.get("gradient_correlation", {}).keys():
            return
        some = slice(0, min(GRADIENT_PICTURES, len(self.labels)))
        images, labels = self.images[some], self.labels[some]
        correlations = gradient_check.finite_difference_correlations(
            self.model, found, images, labels, eps=self.eps, seed=self.seed, batch_size=self.batch_size
        )
        # Those of rows that an earlier command measured stay.
        known = self.report.measured.get("gradient_correlation", {})
        rounded = {name: round(value, 4) for name, value in correlations.items()}
        self.report.measured["gradient_correlation"] = known | rounded
        self.report.measured["zero_gradients"] = {
            name: round(
                gradient_check.zero_gradient_share(found[PLAIN_GRADIENT], images, labels, loss, self.batch_size), 4
            )
            for name, loss in (("cross-entropy", cross_entropy), ("margin", margin))
        }

    def _check_consistency(self) -> None:
        # Whether an answer depends on the others in its batch, no fewer than two can show.
        some = self.images[: min(CONSISTENCY_PICTURES, max(2, self.batch_size))]
        if len(some) > 1 and "batch_dependence" not in self.report.measured:
            self.report.measured["batch_dependence"] = batch_dependence(self.model, some)
        if "randomness" not in self.report.measured:
            self.report.measured["randomness"] = randomness(self.model, some)

    def _attack(self, attacks: Sequence[AttackOn[Any]]) -> None:
        count = len(self.labels)
        with self._bar() as bar, passes_shown(self.model.backbone, bar):
            for index, attack in enumerate(attacks):
                if row_key(attack) in self.report.withstood:
                    continue
                chosen = self.report.survivors(attack, count)
                bar.reset(int(chosen.sum()))
                bar.set_description(f"{index + 1}/{len(attacks)} {row_key(attack)}")
                right = torch.zeros(count, dtype=torch.bool)
                progress = self._progress(attack, chosen)
                if chosen.any():
                    where = chosen.to(self.labels.device)
                    right[chosen] = measuring.withstood(
                        self._target(attack),
                        self.images[where],
                        self.labels[where],
                        attack,
                        eps=self.eps,
                        seed=self.seed,
                        batch_size=self.batch_size,
                        on_batch=partial(_advance, bar, progress),
                        progress=progress,
                    )
                self.report.add(attack, right, None if chosen.all() else chosen)
                seconds = self.report.measured.setdefault("core_seconds", {})
                seconds[row_key(attack)] = round(progress.core_seconds(), 1)
                self.report.save(self.path)
                progress.remove()

    def _progress(self, attack: AttackOn[Any], chosen: Tensor) -> RowProgress:
        row = {
            "setting": self.report.setting,
            "name": row_key(attack),
            "attack": attack.parameters(),
            "attacked": "".join("1" if value else "0" for value in chosen.tolist()),
            "batch_size": self.batch_size,
        }
        return RowProgress(self.path.with_name(self.path.name + ".row"), row)

    def _target(self, attack: AttackOn[Any]) -> Classifier:
        if attack.state != GRAPH_STATE:
            return self.model
        if self.graph is None:
            raise ValueError(f"{row_key(attack)} needs the exported graph: --onnx")
        return self.graph

    def _measure_curve(self, whole: bool) -> None:
        curve = self.report.measured.setdefault("accuracy_over_eps", {})
        levels = accuracy_curve.LEVELS if whole else (accuracy_curve.LARGE,)
        images, labels = self.images[:CURVE_PICTURES], self.labels[:CURVE_PICTURES]
        with self._bar() as bar:
            for level in levels:
                if str(level) not in curve:
                    bar.reset(2 * len(labels))
                    bar.set_description(f"accuracy at eps {level}/255")
                    curve |= accuracy_curve.accuracy_over_eps(
                        self.model,
                        images,
                        labels,
                        [level],
                        seed=self.seed,
                        batch_size=self.batch_size,
                        on_batch=bar.update,
                    )
                    self.report.save(self.path)

    def _measure_block(self) -> None:
        if self.model.block is None:
            return
        some = slice(0, min(BLOCK_PICTURES, len(self.labels)))
        effect = measure_block_effect(
            self.model,
            self.images[some],
            self._pgd_10(some),
            eps=self.eps,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        self.report.block_effect = {name: round(value, 6) for name, value in effect.as_dict().items()}

    def _measure_convergence(self) -> dict[str, Iteration]:
        iterations = measure_convergence(
            self.model, self.images[:CONVERGENCE_PICTURES], self.eps, batch_size=self.batch_size
        )
        self.report.measured["convergence"] = {name: one.as_dict() for name, one in iterations.items()}
        self.report.save(self.path)
        return iterations

    def _pgd_10(self, some: slice) -> Tensor:
        torch.manual_seed(self.seed)
        attack = gradient_attack.pgd(10, block=self.model.block is not None)
        return in_batches(
            lambda images, labels: attack.perturb(self.model, images, labels, self.eps),
            self.images[some],
            self.labels[some],
            batch_size=self.batch_size,
        )

    def _bar(self) -> tqdm:
        return tqdm(unit="picture", mininterval=0.5 if sys.stderr.isatty() else 60)

    def _print(self, findings: Sequence[Finding]) -> None:
        report = self.report
        setting = report.setting
        print(
            f"{setting.get('data', '')}, {setting.get('split', '')} split, {len(self.labels)} pictures, "
            f"L-inf eps {self.eps:.4f}\n"
        )
        print(report.table())
        print(f"\n{headline_sentence(report)}")
        if report.block_effect is not None:
            effect = report.block_effect
            print(
                f"block: moves a pixel by {255 * effect['correction_mean_abs']:.2f}/255 on average; off, "
                f"{effect['answers_changed']:.1%} of the answers change, "
                f"{effect['answers_changed_attacked']:.1%} of those on PGD-10 pictures"
            )
        print("\nmasking checklist:")
        for finding in findings:
            print(finding.line())
        overestimated = warning(findings)
        if overestimated:
            print(f"\n{overestimated}")
        print(f"wrote {self.path}")


def _advance(bar: tqdm, progress: RowProgress, pictures: int) -> None:
    bar.update(pictures)
    if bar.n == progress.restored:
        bar.refresh()  # what was done before is shown at once, not when the next minutes are over
