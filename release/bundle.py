r"""Puts a trained and evaluated network into sgn_serve/bundled, with its figures and its baselines' beside it.

    python -m release.bundle --self-gradient runs/smooth-16-2 --start runs/one-step-16-2 --longer runs/longer-16-2 \
        --pgd runs/pgd-16-2 --standard runs/standard-16-2 --first runs/start-16-2

Each run directory must hold model.safetensors, log.csv and the evaluation.json of `python -m training.evaluate`, which
may be in the folder report/ with its page and plots; of --first, whose weights --start went on from, only the training
time is shown, so its log.csv is enough. This writes results/bundled/ (the reports and training logs), the graph, its
checkpoint and model.json, and the table in README.md between its two marker lines, and the adversarial examples of the
page at /ui.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from release.paired import needs_the_block
from training.attacks.auto_attack import AUTO_ATTACK
from training.common.files import sha256
from training.evaluate.saved_report import different_settings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "bundled"
BUNDLED = ROOT / "sgn_serve" / "bundled"
DISAGREEMENT = ROOT / "results" / "disagreement.json"
BEGIN, END = "<!-- bundled figures: begin -->", "<!-- bundled figures: end -->"
SYSTEMS = {
    "self-gradient": "self-gradient",
    "start": "one-step adversarial, what it started from",
    "longer": "one-step adversarial, as long as it",
    "pgd": "Madry PGD-10",
    "standard": "standard",
}
WHOLE = "Square, and so AutoAttack"
CASCADED = (*AUTO_ATTACK[1:3], WHOLE, "APGD-*, smooth surrogate, *")
"""Rows, as shell patterns, that are run on what those before them left; AutoAttack's last, Square, may be, so its row
is AutoAttack's."""
SHOWN = (
    *("clean", "FGSM", "PGD-[12]0", "CW-20", "CW-20, transfer from block off", "CW-20, smooth surrogate, beta *"),
    *("APGD-*", "FAB-T", "Square*"),
)
"""Rows of the README's table, as shell patterns; the page of the report has all of them."""
PAGE = "evaluation.md"
HEADLINE = "lowest accuracy per picture"
FIRST = "first"
EARLIER = {"self-gradient": (FIRST, "start"), "longer": (FIRST, "start"), "start": (FIRST,)}
"""The runs whose weights a system went on from, and whose time is its time too."""


class BundleError(ValueError):
    """A run that cannot be bundled; the message names the file and the fix."""


def need(path: Path, command: str) -> None:
    """raises BundleError where there is no such file"""
    if not path.is_file():
        raise BundleError(f"{path}: no such file; run `python -m {command}` first")


def copy_log(name: str, run: Path) -> None:
    """raises BundleError where there is no log"""
    need(run / "log.csv", "training")
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "log.csv", RESULTS / f"{name}-training.csv")


def copy_run(name: str, run: Path) -> None:
    """Checks a run directory and copies its report and log to results/bundled.

    raises BundleError where a file is missing or the report is of another checkpoint
    """
    need(run / "model.safetensors", "training")
    whole = run / "report" / "evaluation.json"
    path = whole if whole.is_file() else run / "evaluation.json"
    need(path, "training.evaluate")
    report = json.loads(path.read_text())
    if report["setting"]["checkpoint_sha256"] != sha256(run / "model.safetensors"):
        raise BundleError(f"{path} is of another checkpoint; run `python -m training.evaluate` again")
    copy_log(name, run)
    shutil.copy(path, RESULTS / f"{name}.json")
    shutil.rmtree(RESULTS / name, ignore_errors=True)
    if path == whole:
        shutil.copytree(whole.parent, RESULTS / name, ignore=shutil.ignore_patterns("*.json", "*.row"))


def read_log(name: str) -> list[dict[str, float]]:
    with (RESULTS / f"{name}-training.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def core_minutes(name: str) -> float:
    """Processor time of all epochs of a run and of those before it, in minutes."""
    return sum(read_log(run)[-1]["core_seconds"] for run in (*EARLIER.get(name, ()), name)) / 60


def summary() -> dict[str, Any]:
    """What model.json says: figures of results/bundled, block on and off, baselines, and the block over training.

    raises BundleError where the reports are not of the same pictures and settings
    """
    reports = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in SYSTEMS}
    own = ("checkpoint_sha256", "method", "plain_gradient")
    settings = [{k: v for k, v in report["setting"].items() if k not in own} for report in reports.values()]
    if any(different_settings(one, other) for one in settings for other in settings):
        raise BundleError("the evaluations differ in pictures, seed or epsilon; run them with the same settings")
    main = reports["self-gradient"]
    block_columns = ("epoch", "block_correction_mean_abs", "block_correction_change", "block_answers_changed")
    figures = {
        "checkpoint_sha256": main["setting"]["checkpoint_sha256"],
        "headline": main["headline"],
        "lowest": main["lowest"],
        "accuracy": main["accuracy"],
        "auto_attack": main["auto_attack"],
        "block_effect": main["block_effect"],
        "block_over_training": [{key: row[key] for key in block_columns} for row in read_log("self-gradient")],
        "setting": main["setting"],
        "about": main["about"],
        "training_core_minutes": {name: round(core_minutes(name), 1) for name in SYSTEMS},
        "baselines": {
            name: {key: report[key] for key in ("headline", "accuracy", "auto_attack")}
            for name, report in reports.items()
            if name != "self-gradient"
        },
        "attacks": main["attacks"],
    }
    if main.get("earlier"):
        figures["earlier"] = main["earlier"]
    if "checklist" in main:
        figures["checklist"] = main["checklist"]
    disagreement = json.loads(DISAGREEMENT.read_text())
    if disagreement["checkpoint_sha256"] == figures["checkpoint_sha256"]:
        for row in disagreement["attacks"].values():
            for detection in (row, row["successful_only"]):
                detection.pop("roc", None)  # the curve stays in results/
        figures["disagreement"] = disagreement
    return figures


def with_auto_attack(figures: dict[str, Any]) -> dict[str, float]:
    """The accuracies of a report, but in Square's place what all four of AutoAttack left, where all four were run."""
    rows = {}
    for key, value in figures["accuracy"].items():
        state, name = key.split(": ", 1)
        if name == AUTO_ATTACK[-1] and state in figures["auto_attack"]:
            rows[f"{state}: {WHOLE}"] = figures["auto_attack"][state]
        else:
            rows[key] = value
    return rows


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def readme_table(figures: dict[str, Any]) -> str:
    """The README's table of model.json's figures, in Markdown."""
    columns: list[tuple[str, dict[str, float], str]] = [
        ("self-gradient, block on", with_auto_attack(figures), "block on"),
        ("the same, block off", with_auto_attack(figures), "block off"),
    ]
    columns += [(SYSTEMS[name], with_auto_attack(base), "block off") for name, base in figures["baselines"].items()]
    rows = (key.split(": ", 1) for _, accuracy, _ in columns for key in accuracy)
    every = list(dict.fromkeys(name for state, name in rows if state != "exported graph"))
    names = [name for name in every if matches(name, SHOWN)]
    lines = ["| accuracy, % | " + " | ".join(title for title, _, _ in columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for name in names:
        cells = [accuracy.get(f"{state}: {name}") for _, accuracy, state in columns]
        mark = " †" * matches(name, CASCADED)
        lines.append(
            f"| {name}{mark} | " + " | ".join("-" if cell is None else f"{100 * cell:.1f}" for cell in cells) + " |"
        )
    lows = [figures["headline"][HEADLINE], figures["lowest"]["block off"]]
    lows += [base["headline"][HEADLINE] for base in figures["baselines"].values()]
    own = [{key for key in accuracy if key.startswith(f"{state}: ")} for _, accuracy, state in columns]
    own = [{key.split(": ", 1)[1] for key in keys} for keys in own]
    anywhere = {name for done in own for name in done if not needs_the_block(name)}
    fewer = [not anywhere <= names for names in own]
    marked = [f"**{100 * low:.1f}**{' *' if less else ''}" for low, less in zip(lows, fewer, strict=True)]
    lines.append("| **lowest, per picture** | " + " | ".join(marked) + " |")
    minutes = figures["training_core_minutes"]
    times = [minutes["self-gradient"], minutes["self-gradient"], *(minutes[name] for name in figures["baselines"])]
    lines.append("| training, core-minutes | " + " | ".join(f"{time:.0f}" for time in times) + " |")
    if any(matches(name, CASCADED) for name in names):
        lines += ["", "† run on what the costly rows above it left: the share that is left after it."]
    if len(names) < len(every):
        page = (RESULTS / "self-gradient" / PAGE).relative_to(ROOT).as_posix()
        more = f"{len(every) - len(names)} more attacks, where they were run: [the whole report]({page})."
        lines += ["", f"The lowest figures count {more}"]
    if any(fewer):
        lines += ["", "\\* attacks with a dash were not run on it (yet), so read its lowest figure as less of a bound."]
    return "\n".join(lines)


def write_readme(table: str) -> None:
    path = ROOT / "README.md"
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise BundleError(f"{path}: expected the lines {BEGIN} and {END} once each; put them around the figures")
    before, rest = text.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


def main() -> int:
    parser = argparse.ArgumentParser("python -m release.bundle", description=(__doc__ or "").splitlines()[0])
    for name, title in SYSTEMS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="RUN", help=f"run directory: {title}")
    parser.add_argument(
        f"--{FIRST}", type=Path, required=True, metavar="RUN", help="run directory: what --start went on from"
    )
    arguments = parser.parse_args()
    try:
        copy_log(FIRST, getattr(arguments, FIRST))
        for name in SYSTEMS:
            copy_run(name, getattr(arguments, name.replace("-", "_")))
        figures = summary()
        BUNDLED.mkdir(parents=True, exist_ok=True)
        checkpoint = BUNDLED / "model.safetensors"
        shutil.copy(arguments.self_gradient / "model.safetensors", checkpoint)
        export = ["-m", "export", "--ckpt", str(checkpoint), "--onnx", str(BUNDLED / "model.onnx")]
        subprocess.run([sys.executable, *export, "--pictures", str(ROOT / "examples")], check=True, cwd=ROOT)
        (BUNDLED / "model.json").write_text(json.dumps(figures, indent=1) + "\n")
        write_readme(readme_table(figures))
        examples = ["-m", "release.adversarial_examples", "--plain", str(arguments.standard / "model.safetensors")]
        subprocess.run([sys.executable, *examples], check=True, cwd=ROOT)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
