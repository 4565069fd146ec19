"""Make the tables and texts that pages insert."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks import classify, judging_on_ray, precisions
from benchmarks.engines import command as engines
from benchmarks.service import command as service
from benchmarks.start_up import start_up_table
from docs.generator import auto, gpu
from docs.generator.command_lines import describe
from docs.generator.constructs import constructs_table
from docs.generator.judge_cost import judge_cost
from docs.generator.markdown import cell, figures_table, words_table
from docs.generator.readme import five_rows
from docs.generator.results import (
    OFF,
    ON,
    QUICK,
    RESULTS,
    accuracy,
    frozen_comparisons,
    percent,
    reproduced,
    result,
    share,
    survivors,
    training_log,
)
from export.command import build_parser as export_parser
from export.formats.table import FORMATS
from release import fast_judge, install, own_folder, own_weights, referee, referee_figures
from release.bundle import BUNDLED, readme_table, summary
from release.hostile import report as hostile
from release.hostile.command import build_parser as hostile_parser
from release.paired import in_words
from release.throughput import throughput_table
from sgn.command import COMMANDS
from sgn_serve.api.openapi.document import METHODS, describe_api
from sgn_serve.classify.command import build_parser as classify_parser
from sgn_serve.classify.report.command import build_parser as report_parser
from sgn_serve.command import build_parser as serve_parser
from sgn_serve.http.errors import refusal_rows
from sgn_serve.inference.graph import read_graph
from sgn_serve.pictures.formats import format_rows
from sgn_serve.settings import Settings, settings_table
from sgn_serve.telemetry.metrics import metric_rows
from training.attacks.black_box import SourceNetwork
from training.attacks.names import PRESET_MEANING, PRESETS
from training.attacks.registry import ENTRIES, Context, build_attacks
from training.common.described_options import option_rows
from training.config import EPS, TrainConfig
from training.convert.command import build_parser as convert_parser
from training.convert.options import Options as ConvertOptions
from training.defend import build_parser as defend_parser
from training.evaluate.command import build_parser as evaluate_parser
from training.evaluate.options import Options as EvaluateOptions
from training.evaluate.report import BLOCK_EFFECT
from training.networks.self_gradient import SelfGradientNetwork
from training.options import build_parser as training_parser
from training.options import variations
from training.reproduce.command import build_parser as reproduce_parser
from training.reproduce.tables import LOWEST

ROOT = Path(__file__).parents[2]
TYPICAL = Context(eps=EPS, has_block=True, classes=10)
"""The network that the costs of presets are counted for: one with a block and ten classes."""
_ANOTHER = SourceNetwork(SelfGradientNetwork(nn.Identity(), None), "another network", "")
EVERYTHING = replace(TYPICAL, checkpoint=_ANOTHER, transfer=_ANOTHER, graph_sha256="of a graph")
"""TYPICAL with all that any attack needs, so that each of them can be counted."""


def _presets() -> str:
    rows = []
    for name in PRESETS:
        calls = sum(attack.network_calls(TYPICAL.classes) for attack in build_attacks([name], TYPICAL))
        rows.append((f"`{name}`", cell(PRESET_MEANING[name]), f"{calls:,}"))
    return words_table(("preset", "attacks", "network calls on a picture"), rows)


def _attacks() -> str:
    rows = [("`pgd-K`, `cw-K`", "K steps on cross-entropy (`pgd`) or on the margin (`cw`), for any K", "", "K each")]
    for name, entry in ENTRIES.items():
        built = list(entry.build(EVERYTHING))
        calls = f"{sum(attack.network_calls(TYPICAL.classes) for attack in built):,}" if built else ""
        rows.append((f"`{name}`", cell(entry.description), cell(entry.needs), calls))
    return words_table(("name", "what it does", "needs", "network calls on a picture"), rows)


def _training_options() -> str:
    rows = [
        (f"`{row.flags}`", cell(row.help), cell(row.default), cell(row.range), cell(row.methods))
        for row in option_rows(TrainConfig, variations)
    ]
    return words_table(("option", "meaning", "default", "range", "for the methods"), rows)


def _options(record: type) -> Callable[[], str]:
    """Return the function that makes the table of a command's options."""

    def table() -> str:
        rows = [(f"`{row.flags}`", cell(row.help), cell(row.default), cell(row.range)) for row in option_rows(record)]
        return words_table(("option", "meaning", "default", "range"), rows)

    return table


def _settings() -> str:
    rows = [
        (
            f"`{row.variable}`",
            cell(row.meaning),
            cell(row.accepts),
            f"`{row.default}`" if row.default and " " not in row.default else row.default,
        )
        for row in settings_table()
    ]
    return words_table(("variable", "meaning", "accepts", "default"), rows)


def _errors() -> str:
    rows = [(str(row.status), f"`{row.code}`", cell(row.meaning)) for row in refusal_rows()]
    return words_table(("status", "`code`", "meaning"), rows)


def _metrics() -> str:
    rows = [
        (f"`{row.name}`", row.type, ", ".join(f"`{label}`" for label in row.labels), cell(row.meaning))
        for row in metric_rows()
    ]
    return words_table(("name", "kind", "labels", "what it counts"), rows)


def _routes() -> str:
    document = describe_api(Settings.from_environment({}), read_graph(BUNDLED / "model.onnx").description)
    rows = [
        (f"`{method.upper()} {path}`", cell(operation.get("summary", "")), ", ".join(sorted(operation["responses"])))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method in METHODS
    ]
    return words_table(("route", "what it does", "statuses"), rows)


def _sgn_commands() -> str:
    rows = []
    for name, command in COMMANDS.items():
        module = importlib.import_module(command.module)
        rows.append((f"`sgn {name}`", f"`{module.PROGRAM}`", cell(command.help)))
    return words_table(("command", "the same as", "what it does"), rows)


def _formats() -> str:
    rows = [
        (f"`--{item.name}`", f"`{item.file_name}`", cell(item.content), ", ".join(f"`{name}`" for name in item.reduced))
        for item in FORMATS
    ]
    return words_table(("option", "file", "content", "lower precision"), rows)


def _picture_formats() -> str:
    rows = [
        (
            f"`{row.name}`" + (f' (`pip install "{row.package}"`)' if row.package else ""),
            " ".join(f"`{suffix}`" for suffix in row.suffixes),
            cell(row.kinds),
        )
        for row in format_rows()
    ]
    return words_table(("`SGN_FORMATS`", "suffixes", "what is read"), rows)


def _block_cost() -> str:
    rows = [
        (batch, f"{row['block_on_ms']:.1f}", f"{row['block_off_ms']:.1f}", f"{row['ratio']:.1f}")
        for batch, row in result("block_cost")["latency"].items()
    ]
    return figures_table(("batch", "block on, ms", "block off, ms", "ratio"), rows)


def _training_cost() -> str:
    rows = [
        (name, f"{row['images_per_second']}", f"{row['ratio_to_pgd10']:.3f}")
        for name, row in result("training_cost")["methods"].items()
    ]
    return figures_table(("step", "images/s", "time against PGD-10"), rows)


def _bundled() -> str:
    return readme_table(summary()).replace("](results/", "](../../results/")


def _paired(part: str) -> str:
    """Return the comparisons of a part of results/paired.json."""
    rows = [
        (
            name,
            *(percent(one) for one in row["accuracy"]),
            str(row["won"]),
            str(row["lost"]),
            f"{row['p']:.2f}" if row["p"] >= 0.01 else "< 0.01",
        )
        for name, row in result("paired")[part].items()
    ]
    return figures_table(("comparison", "first, %", "second, %", "won", "lost", "p"), rows)


def _checklist() -> str:
    rows = []
    for item in result("bundled/self-gradient")["checklist"]:
        value = item["value"]
        shown = "-" if value is None else f"{value:.4g}"
        rows.append((item["name"], shown, cell(item["threshold"]), item["verdict"]))
    return words_table(("item", "measured", "threshold", "verdict"), rows)


def _disagreement() -> str:
    rows = []
    for name, row in result("disagreement")["attacks"].items():
        rows.append(
            (
                name,
                f"{row['area_under_roc']:.2f}",
                f"{row['successful_only']['area_under_roc']:.2f}",
                f"{row['mean_bits_clean']:.4f}",
                f"{row['mean_bits']:.4f}",
            )
        )
    header = ("attack", "area under the ROC curve", "of successes alone", "mean bits, clean", "mean bits, attacked")
    return figures_table(header, rows)


def _fast_judge() -> str:
    """Return the comparison of cheap attacks with AutoAttack, if it was measured on every picture."""
    if fast_judge.RESULT.is_file():
        measured = result("fast_judge")
        if measured["done"] == measured["setting"]["pictures"]:
            return fast_judge.shown(measured)
    return "Not measured on enough pictures yet."


def _referee() -> str:
    """Return the comparison of defences, if a defence and the static network were measured."""
    if (referee.RESULTS / "referee.json").is_file():
        measured = result("referee")
        if any("against_static" in row for row in measured["rows"]):
            return referee_figures.shown(measured)
    return "Not measured yet."


def _once_measured(name: str, shown: Callable[[dict[str, Any]], str]) -> str:
    """Return what results/NAME.json shows, if it was measured."""
    return shown(result(name)) if (RESULTS / f"{name}.json").is_file() else "Not measured yet."


def _network_row(title: str, report: str) -> tuple[str, ...]:
    """Return a network's clean accuracy and its lowest ones by the quick attacks, block on and off."""
    states = result(report)["lowest"]
    clean = percent(accuracy(report, f"{ON if ON in states else OFF}: clean"))
    lowest = [percent(share(survivors(report, one, QUICK))) if one in states else "-" for one in (ON, OFF)]
    return (title, clean, *lowest)


def _earlier() -> str:
    rows = [
        _network_row("WRN-10-2, plain, 12 epochs", "tried/wrn-10-2-start"),
        _network_row("WRN-10-2, block bounded by 4/255", "tried/wrn-10-2-block-4-255"),
        _network_row("WRN-10-2, block bounded by 8/255", "tried/wrn-10-2-block-8-255"),
        _network_row("WRN-16-2, plain, 12 epochs", "tried/wrn-16-2-start"),
        _network_row("WRN-16-2, the attack not seeing the block", "tried/wrn-16-2-held"),
        _network_row("WRN-16-2, bundled", "bundled/self-gradient"),
    ]
    header = ("network", "clean, %", "lowest, block on, %", "lowest, block off, %")
    return figures_table(header, rows)


def _smooth_activations() -> str:
    silu = _network_row("SiLU, attack through both passes", "tried/wrn-10-2-silu")
    minutes = float(training_log("tried/wrn-10-2-silu")[-1]["core_seconds"]) / 60
    doubted = result("tried/wrn-10-2-silu")["robustness_likely_overestimated"]
    on, off = (reproduced("table5", f"self-gradient, block {state}") for state in ("on", "off"))
    rows = [
        (*silu, "likely too high" if doubted else "nothing raised", f"{minutes:.0f}"),
        (
            "ReLU, attack that holds the gradient (table 2)",
            *(f"{value:.1f}" for value in (on["measured"]["clean"], on["measured"][LOWEST], off["measured"][LOWEST])),
            "likely too high" if "likely too high" in on["note"] else "nothing raised",
            f"{on['about']['core_seconds_of_training'] / 60:.0f}",
        ),
    ]
    header = ("network", "clean, %", "block on, %", "block off, %", "checklist", "training, core-minutes")
    return figures_table(header, rows)


def _frozen_backbone() -> str:
    """Return the accuracies of a block that was trained alone, and of its backbone, by the attacks that both met."""
    rows = [(title, *map(percent, row["accuracy"]), in_words(row)) for title, row in frozen_comparisons()]
    return figures_table(("accuracy on the same pictures, %", ON, OFF, "on against off"), rows)


def _block_effect() -> str:
    effect = result("bundled/self-gradient")[BLOCK_EFFECT]
    rows = [
        ("mean absolute self-gradient, logits per unit of intensity", f"{effect['gradient_mean_abs']:.4f}"),
        ("mean absolute correction of a pixel", f"{255 * effect['correction_mean_abs']:.1f}/255"),
        ("its change under a random corner of the epsilon ball", f"{100 * effect['correction_change']:.0f} %"),
        ("answers that change when the block is switched off", f"{100 * effect['answers_changed']:.1f} %"),
        ("the same on PGD-10 pictures", f"{100 * effect['answers_changed_attacked']:.1f} %"),
    ]
    return figures_table(("measured", "value"), rows)


def _hostile_verdict() -> str:
    lines = hostile.exceeded(result("hostile"))
    if not lines:
        return "This run exceeded none of them."
    return "This run exceeded these of them:\n\n" + "\n".join(f"- {cell(line)}" for line in lines)


def _reproduced(name: str) -> Callable[[], str]:
    return lambda: (ROOT / "results" / "reproduce" / "small" / f"{name}.md").read_text().strip()


def _root_page(name: str) -> Callable[[], str]:
    """Return the text of a file at the top of the repository, with links as a page of docs/ has them."""

    def text() -> str:
        return (ROOT / name).read_text().replace("](docs/", "](")

    return text


INSERTS: dict[str, Callable[[], str]] = {
    "command-training": lambda: describe(training_parser(), elsewhere=[row.name for row in option_rows(TrainConfig)]),
    "command-evaluate": lambda: describe(
        evaluate_parser(), elsewhere=[row.name for row in option_rows(EvaluateOptions)]
    ),
    "command-convert": lambda: describe(convert_parser(), elsewhere=[row.name for row in option_rows(ConvertOptions)]),
    "command-reproduce": lambda: describe(reproduce_parser()),
    "command-defend": lambda: describe(defend_parser()),
    "command-export": lambda: describe(export_parser()),
    "command-serve": lambda: describe(serve_parser()),
    "command-classify": lambda: describe(classify_parser()),
    "command-report": lambda: describe(report_parser()),
    "sgn-commands": _sgn_commands,
    "training-options": _training_options,
    "evaluation-options": _options(EvaluateOptions),
    "convert-options": _options(ConvertOptions),
    "settings": _settings,
    "errors": _errors,
    "presets": _presets,
    "attacks": _attacks,
    "metrics": _metrics,
    "routes": _routes,
    "constructs": constructs_table,
    "formats": _formats,
    "picture-formats": _picture_formats,
    "five-rows": lambda: five_rows(summary()),
    "bundled": _bundled,
    "paired": partial(_paired, "comparisons"),
    "paired-recipe": partial(_paired, "of_the_recipe"),
    "checklist": _checklist,
    "block-effect": _block_effect,
    "earlier-networks": _earlier,
    "smooth-activations": _smooth_activations,
    "disagreement": _disagreement,
    "fast-judge": _fast_judge,
    "referee": _referee,
    "auto": auto.auto,
    "auto-attacked": auto.auto_attacked,
    "auto-verdict": auto.auto_verdict,
    "auto-cost": auto.auto_cost,
    "auto-aims": auto.auto_aims,
    "auto-most": auto.auto_most,
    "auto-service": auto.auto_service,
    "auto-sizing": auto.auto_sizing,
    "block-cost": _block_cost,
    "judge-cost": judge_cost,
    "training-cost": _training_cost,
    "engines": lambda: engines.ratio_table(result("engines")["architectures"]),
    "precisions": lambda: precisions.table(result("precisions")["rows"]),
    "gpu-speed": gpu.speed_table,
    "gpu-training": gpu.training_table,
    "gpu-attacks": gpu.attacks_table,
    "gpu-resnet": gpu.resnet_table,
    "judging-on-ray": lambda: _once_measured("judging_on_ray", judging_on_ray.shown),
    "classify-speed": lambda: "\n\n".join(
        _once_measured(name, classify.shown) for name in ("classify", "classify-amx")
    ),
    "gpu-recipes": lambda: gpu.recipes_table(60),
    "gpu-recipes-long": lambda: gpu.recipes_table(180),
    "gpu-winner": gpu.winner_table,
    "service": lambda: service.table(result("service")),
    "service-compared": lambda: service.comparison_table(result("service")),
    "service-ledger": lambda: service.steps_table(result("service")),
    "command-hostile": lambda: describe(hostile_parser()),
    "hostile": lambda: hostile.table(result("hostile")),
    "hostile-together": lambda: hostile.together_table(result("hostile")),
    "hostile-profile": lambda: hostile.profile_table(result("hostile")),
    "throughput": lambda: throughput_table(result("throughput")),
    "hostile-named": lambda: hostile.named_table(result("hostile")) or "This run left them out (`--no-named`).",
    "hostile-verdict": _hostile_verdict,
    "frozen-backbone": _frozen_backbone,
    "install-steps": lambda: install.steps_table(result("install")),
    "own-folder-steps": lambda: own_folder.steps_table(result("own_folder")),
    "own-folder-figures": lambda: own_folder.figures_table(result("own_folder")),
    "own-weights-steps": lambda: own_weights.steps_table(result("own_weights")),
    "start-up": lambda: start_up_table(result("start_up")),
    "table1": _reproduced("table1"),
    "table2": _reproduced("table2"),
    "table5": _reproduced("table5"),
    "figure2": _reproduced("figure2"),
    "contributing": _root_page("CONTRIBUTING.md"),
    "changelog": _root_page("CHANGELOG.md"),
}
