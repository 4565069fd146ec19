"""Measure how often each reduced precision gives float32's answer, on clean and on attacked pictures.

    python -m benchmarks.precisions --pictures data/test

Writes results/precisions.json. It covers every format and precision that a CPU runs. Each has the share of 1,000
real pictures, and of their PGD-20 versions, that keep their top class. `python -m export --precision` measures the same
before it writes a file. Nothing is refused here, however low the share.

The last row is the float32 graph beside the checkpoint, rounded to bfloat16 by OpenVINO: what SGN_ENGINE=auto serves
where it can. `python -m release.auto --publish` puts its shares among the figures beside the graph.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.provenance import commit, processor, versions
from export.bf16_agreement import measure_bf16
from export.check.pictures import PicturesError
from export.check.verify import VerificationError
from export.formats.aot import CompilerError
from export.formats.openvino import OpenVinoError
from export.formats.table import FORMATS
from export.reduced import AgreementError, Reduced, export_reduced
from sgn_serve.common import markdown
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import GRAPH_SHA256_FIELD, SHA256_KEY, file_sha256
from training.common import run_files

RESULT = ROOT / "results" / "precisions.json"
BUNDLED = ROOT / "sgn_serve" / "bundled" / run_files.CHECKPOINT
SERVED = "onnx on OpenVINO, bf16"
ROWS = (
    ("openvino", "bf16"),
    ("torchscript", "bf16"),
    ("aot", "bf16"),
    ("onnx", "fp16"),
)


def measure(checkpoint: Path, pictures: Path, row: tuple[str, str], count: int) -> dict[str, Any]:
    """Export in one format and precision, and compare it with float32.

    Args:
        checkpoint: The checkpoint file.
        pictures: A folder of pictures like those that the network was trained on.
        row: The format's name and the precision.
        count: How many pictures are compared.

    Returns:
        The agreements by output, or {"error": message} where this machine has no such engine.

    Raises:
        PicturesError: The folder has too few pictures.
    """
    name, precision = row
    file_format = next(item for item in FORMATS if item.name == name)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / file_format.file_name
        try:
            report = export_reduced(file_format, checkpoint, target, pictures, Reduced(precision, 0.0, count))
        except (AgreementError, VerificationError, CompilerError, OpenVinoError) as error:
            return {"error": str(error)}
    return {"agreement": {item.output: asdict(item) for item in report.agreements}}


def measure_served(checkpoint: Path, graph: Path, pictures: Path, count: int) -> dict[str, Any]:
    """Compare a float32 graph's answers in bfloat16 on OpenVINO with float32's.

    Args:
        checkpoint: The checkpoint file that the graph was exported from.
        graph: The graph's file.
        pictures: See measure.
        count: See measure.

    Returns:
        The agreements by output and what else belongs to them, or {"error": message} where this machine cannot.

    Raises:
        PicturesError: The folder has too few pictures.
    """
    try:
        found = measure_bf16(graph, checkpoint, pictures, count)
    except OpenVinoError as error:
        return {"error": str(error)}
    return {
        "agreement": {item["output"]: item for item in found.pop("outputs")},
        "lowest": found.pop("agreement"),
        GRAPH_SHA256_FIELD: file_sha256(graph),
        **found,
        "processor": processor(),
        "git_commit": commit(),
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the result's rows as a Markdown table, shares in percent."""
    header = ("format, precision", "clean", "after PGD-20", "block off: clean", "after PGD-20")
    lines = []
    for name, row in rows.items():
        if "error" in row:
            lines.append([name, f"not measured: {row['error']}", "", "", ""])
        else:
            outputs = (row["agreement"][output] for output in ("logits", "plain_logits"))
            lines.append([name, *(f"{100 * item[kind]:.1f}" for item in outputs for kind in ("clean", "attacked"))])
    return markdown.table(header, lines, "lrrrr")


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.precisions", __doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures like those trained on")
    parser.add_argument("--count", type=int, default=Reduced.pictures, help="how many of them")
    parser.add_argument("--ckpt", type=Path, default=BUNDLED, help="model.safetensors (default: the bundled one)")
    parser.add_argument(
        "--served", action="store_true", help="measure the last row alone, and keep the others of --out"
    )
    add_out(parser, RESULT)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": "python -m benchmarks.precisions --pictures ...",
        SHA256_KEY: file_sha256(options.ckpt),
        "versions": versions(("torch", "onnxruntime", "openvino")),
        "processor": processor(),
        "git_commit": commit(),
        "rows": {},
    }
    if options.served and options.out.is_file():
        result = json.loads(options.out.read_text())
    graph = options.ckpt.with_suffix(".onnx")
    rows = {", ".join(row): partial(measure, options.ckpt, options.pictures, row, options.count) for row in ROWS}
    served = partial(measure_served, options.ckpt, graph, options.pictures, options.count)
    for title, run in {**({} if options.served else rows), **({SERVED: served} if graph.is_file() else {})}.items():
        say(title)
        try:
            result["rows"][title] = run()
        except PicturesError as error:
            say(f"error: {error}")
            return 2
        write_result(options.out, result)
    print(table(result["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
