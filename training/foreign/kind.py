"""Tell weights of other programs from checkpoints of this project. Nothing here imports PyTorch."""

import json
from pathlib import Path

from sgn_serve.common.graph_format import CHECKPOINT_FORMAT, METADATA_KEY

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""First bytes of what torch.save writes, now and before PyTorch 1.6. A .safetensors file begins with its header's
length, whose two low bytes are "PK" for one file of 8192."""

LFS_POINTER = b"version https://git-lfs"
"""First bytes of the text file that stands in for a file of Git LFS."""

_DESCRIPTION = CHECKPOINT_FORMAT.partition("/")[0]
_LONGEST_HEADER = 100 << 20
"""Most bytes of a .safetensors file's header, in its format's description."""


def _is_description(path: Path) -> bool:
    """Return whether a file describes a checkpoint of this project. One that is damaged counts as a description.

    Others may have the same name: `export` writes the figures of x.onnx to x.json.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return path.is_file()
    return isinstance(content, dict) and str(content.get("format")).startswith(_DESCRIPTION)


def is_foreign(path: Path) -> bool:
    """Return whether a file looks like weights of another program.

    A checkpoint of this project is a .safetensors file with its metadata, or a .pt with its description beside it. A
    file that is missing, damaged or nothing of the kind is left to training.checkpoint, which says so.
    """
    if not path.is_file():
        return False
    if path.suffix == ".pt":
        return not _is_description(path.with_suffix(".json"))
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == LFS_POINTER[:8]:
                return True  # reading it says so
            if start[:4] == _ZIP or (start[:1] == _PICKLE and path.suffix != ".safetensors"):
                return True
            if len(start) < 8 or length > _LONGEST_HEADER:
                return False
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") or {} if isinstance(header, dict) else None
    return isinstance(metadata, dict) and METADATA_KEY not in metadata
