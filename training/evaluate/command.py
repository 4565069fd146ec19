"""Command line `python -m training.evaluate`: attack a checkpoint or a module and report what it withstands."""

import argparse
import shlex
import sys

from training.attacks.registry import ENTRIES, PRESETS, Context, build_attacks
from training.common.described_options import add_options, given_options
from training.common.devices import default_device
from training.common.endings import ENDINGS, print_ending
from training.common.signals import terminable
from training.evaluate.gradient_oracle import judge_oracle
from training.evaluate.options import Options
from training.evaluate.page import summary
from training.evaluate.prepare import Prepared, prepare
from training.networks.gradient_oracle import GradientOracle

PRESET_MEANING = {
    "quick": "block on and off: FGSM, PGD-10, PGD-20, CW-20; the smooth surrogate; transfer from block off",
    "paper": "block on and off: FGSM, PGD-10/20/40/100, CW-10/20/40/100",
    "autoattack": "block on and off: APGD-CE, APGD-T, FAB-T, Square",
    "full": "all of these and every adaptive attack below; every item of the masking checklist",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, whose --help lists the presets and the attacks."""
    width = max(map(len, ENTRIES))
    typical = Context(eps=8 / 255, has_block=True, classes=10)
    calls = {name: sum(attack.network_calls(10) for attack in build_attacks([name], typical)) for name in PRESETS}
    epilog = [
        "presets of --attacks, and how often they call the network on a picture that withstands everything (10",
        "classes, a network with a block; pictures that fall cost much less):",
        *(f"  {name:<{width}}  {calls[name]:>6,}  {PRESET_MEANING[name]}" for name in PRESETS),
        "attacks by name:",
        f"  {'pgd-K, cw-K':<{width}}  K steps on cross-entropy or on the margin, for any K",
        *(f"  {name:<{width}}  {entry.description}" for name, entry in ENTRIES.items()),
    ]
    parser = argparse.ArgumentParser(
        "python -m training.evaluate",
        description="Clean and attacked accuracy of a checkpoint, block on and off, or of any module; the headline is "
        "the lowest accuracy per picture, and a checklist says whether it is likely too high.",
        epilog="\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, Options)
    return parser


def evaluate(prepared: Prepared) -> None:
    """Run the attacks and the checklist, saving the report after each; a gradient oracle gets table 1's two figures.

    Raises:
        SavedReportError: A saved report is of another setting or none at all.
        WriteError: The report cannot be written.
    """
    evaluation = prepared.evaluation
    trial, report = evaluation.trial, evaluation.report
    if isinstance(trial.model, GradientOracle):
        print(judge_oracle(trial.of(trial.model), report.setting, report.about, evaluation.path))
        return
    findings = evaluation.run(prepared.attacks, whole_curve=prepared.whole_curve)
    print(f"{summary(report, findings)}\nwrote {evaluation.path}")
    if prepared.folder is not None:
        written = evaluation.write_page(prepared.folder)
        print(f"wrote {prepared.folder / 'evaluation.md'} and {len(written)} plots")


def main(argv: list[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    arguments = build_parser().parse_args(argv)
    command = shlex.join(["python", "-m", "training.evaluate", *(sys.argv[1:] if argv is None else argv)])

    given = given_options(Options, arguments)
    try:
        with terminable():
            options = Options(**{"ckpt": None, **given})
            say_where(options)
            evaluate(prepare(options, command))
    except ENDINGS as error:
        return print_ending(
            error,
            out_of_memory="pass a smaller --batch-size",
            interrupted="the same command continues after the last finished batch of pictures",
            device=given.get("device", default_device()),
        )
    return 0


def say_where(options: Options) -> None:
    """Print where the report goes, where that is not beside the checkpoint and nobody chose it."""
    path, _ = options.output_paths()
    if options.report is not None:
        return
    if options.ckpt is None:
        print(f"the report goes to {path}; --report names another place", file=sys.stderr, flush=True)
    elif path.parent != options.ckpt.parent:
        print(
            f"the report goes to {path}, because {options.ckpt.parent} belongs to a package or cannot be written to; "
            "--report names another place",
            file=sys.stderr,
            flush=True,
        )
