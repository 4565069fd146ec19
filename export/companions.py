"""Make what goes with an exported graph in files of its name: its measured figures and its example pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.examples import ExamplesWanted, Target, load_candidates, make_examples, own_targets, write_examples
from export.figures import Evaluation, check_place, find_evaluation, judge_command, stale_figures, write_figures
from export.network_passes import passes_of
from export.options import SERVED, ExportOptions, FileKind
from export.stages import begin
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import file_sha256
from training.data.picture_set import PictureSet
from training.foreign.loading import UNKNOWN, Source, load_network


@dataclass(frozen=True)
class Examples:
    """Pictures to choose examples from, and the networks to attack with them."""

    wanted: ExamplesWanted
    candidates: PictureSet
    targets: Mapping[str, Target]
    source: str


class Companions:
    """The files that go with the graphs of one command.

    Whatever people can put right is checked here, before a graph is exported.

    Args:
        source: The checkpoint, or weights of another program. What is recognised in them is printed.
        options: What the command line asks for.
        command: The command line as it was given, for the examples' file.

    Raises:
        CheckpointError, WeightsError: The checkpoint cannot be read.
        CaptureError: Its network cannot be exported.
        DatasetError: The pictures for examples cannot be read.
        FiguresError: The evaluation that was named is not there, does not fit, or would replace another file.
        ExamplesError: Examples cannot be made.
    """

    def __init__(self, source: Source, options: ExportOptions, command: str):
        self._checkpoint = source.path
        model, info = load_network(source)
        passes_of(model)  # a network that cannot be exported is refused before its pictures are loaded
        self._evaluation: Evaluation | None = None
        self._told = False
        try:
            self._evaluation = find_evaluation(self._checkpoint, info, options.evaluation)
            if self._evaluation is not None:
                for _, target in options.targets:
                    check_place(target)
        except ExportError as error:
            if options.evaluation is not None:
                raise
            # Nobody asked for this evaluation: the graph is written without its figures.
            self._evaluation = None
            say(f"warning: no figures go with the graph: {error}")
            self._told = True
        self._examples: Examples | None = None
        if options.examples is not None:
            assert options.data_root is not None  # the command line wants it
            wanted = ExamplesWanted(options.examples, options.data_root, options.dataset, command)
            targets = own_targets(model, info, file_sha256(self._checkpoint))
            candidates = load_candidates(wanted, info, len(targets))
            data = options.data_root.absolute().name if info.dataset == UNKNOWN else info.dataset
            self._examples = Examples(wanted, candidates, targets, f"test pictures of {data}")
        self._content: Mapping[str, Any] | None = None

    def write(self, kind: FileKind, graph: Path) -> None:
        """Write the files that go with a graph, and print what was written.

        Args:
            kind: The graph's format.
            graph: Its file.

        Raises:
            FiguresError: The report cannot be read.
            ExamplesError: The network classifies no picture rightly, or the file would be too large.
            WriteError: A file cannot be written.
        """
        if self._evaluation is not None:
            path, left_out = write_figures(self._evaluation, graph)
            other = f", but for {left_out} measured on another exported graph" if left_out else ""
            print(f"wrote {path} (figures of {self._evaluation.path}{other})")
        elif stale := stale_figures(graph):
            say(
                f"warning: {stale} has the figures of an older graph, which will not be shown: judge this one and "
                "export it again, or delete that file",
            )
        elif not self._told:
            self._told = True
            print(
                "no figures go with it, for its checkpoint was not judged: "
                f"{judge_command(self._checkpoint)}, then export it again"
            )
        if self._examples is not None and kind in SERVED:
            path = write_examples(self._made(self._examples), graph)
            print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} KB)")

    def _made(self, examples: Examples) -> Mapping[str, Any]:
        """Return the examples' content, made once for all graphs of the command."""
        if self._content is None:
            begin("attack pictures for the examples")
            self._content = make_examples(examples.wanted, examples.candidates, examples.targets, examples.source)
            shown = self._content["examples"]
            if len(shown) < examples.wanted.count:
                print(f"only {len(shown)} pictures are classified rightly, so there are as many examples")
            for name, target in examples.targets.items():
                fooled = sum(example["tampered"][name]["fooled"] for example in shown)
                print(f"examples: the attack fools {target.title} on {fooled} of {len(shown)} pictures")
        return self._content
