"""Read the example pictures that stand beside a graph. `python -m export --examples` and release/ write them."""

import base64
import binascii
from dataclasses import dataclass

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import EXAMPLES_FORMAT, MAX_EXAMPLES, MAX_EXAMPLES_BYTES, examples_path
from sgn_serve.inference.graph import Graph
from sgn_serve.records import Example, Examples
from sgn_serve.serving.companions import read_companion

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class GivenExamples:
    """The example pictures beside a graph.

    Attributes:
        count: Number of pictures; 0 where there are none, or where the file is not used.
        content: The answer of /model/examples, JSON; None where there are none.
        note: One line, with the fix, that says why a file is not used. None where it is, or where there is none.
    """

    count: int = 0
    content: bytes | None = None
    note: str | None = None


def read_examples(graph: Graph) -> GivenExamples:
    """Read the example pictures beside a graph.

    Args:
        graph: The graph.

    Returns:
        The examples, or the reason why none are shown.
    """
    path = examples_path(graph.path)
    try:
        examples = Examples.model_validate_json(read_companion(path, MAX_EXAMPLES_BYTES))
        _check(examples)
    except FileNotFoundError:
        return GivenExamples()
    except (OSError, ValueError) as error:  # pydantic's among them
        reason = f"cannot be used ({type(error).__name__}: {one_line(error)})"
    else:
        made_for = examples.checkpoint_sha256
        if made_for == graph.description.sha256:
            return GivenExamples(len(examples.examples), examples.model_dump_json().encode())
        reason = f"was made for another checkpoint ({made_for[:12]}) than the graph ({graph.description.sha256[:12]})"
    fix = "write it again with python -m export --examples, or take it away"
    return GivenExamples(note=f"{path.name}: {reason}, so no examples are shown; {fix}")


def _check(examples: Examples) -> None:
    """Check what the types of the records do not.

    Raises:
        ValueError: The file is of another format, or its parts do not fit together.
    """
    if examples.format != EXAMPLES_FORMAT:
        raise ValueError(f"its format is {examples.format[:40]!r}, not {EXAMPLES_FORMAT!r}")
    if not 1 <= len(examples.examples) <= MAX_EXAMPLES:
        raise ValueError(f"it has {len(examples.examples)} examples instead of 1 to {MAX_EXAMPLES}")
    for example in examples.examples:
        _check_example(example, examples)


def _check_example(example: Example, examples: Examples) -> None:
    """Check one example.

    Raises:
        ValueError: It has a class or a network that is not in the file, or no PNG files.
    """
    if example.label >= len(examples.class_names):
        raise ValueError(f"{example.name[:40]!r} has the class {example.label} of {len(examples.class_names)}")
    if not example.tampered or not example.tampered.keys() <= examples.models.keys():
        raise ValueError(f"{example.name[:40]!r} is perturbed against networks that the file does not describe")
    for png in (example.png, *(tampered.png for tampered in example.tampered.values())):
        try:
            content = base64.b64decode(png, validate=True)
        except binascii.Error:
            content = b""
        if not content.startswith(_PNG):
            raise ValueError(f"a picture of {example.name[:40]!r} is no PNG file in base64")
