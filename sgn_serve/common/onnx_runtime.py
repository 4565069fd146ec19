"""Start a graph on ONNX Runtime: serving, judging, export's checks and benchmarks take their sessions from here.

The module imports nothing of this repository, and ONNX Runtime only when a session is started.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnxruntime

Provider = str | tuple[str, dict[str, str]]
"""An execution provider by ONNX Runtime's name, alone or with its options."""

Spinning = Literal["always", "in a run", "never"]
"""Times at which idle threads of a session spin, and so keep their cores from others."""

CPU = "CPUExecutionProvider"

_SPINNING: Mapping[Spinning, tuple[str, str] | None] = MappingProxyType(
    {
        "always": None,  # ONNX Runtime's default
        "in a run": ("session.force_spinning_stop", "1"),
        "never": ("session.intra_op.allow_spinning", "0"),
    }
)


def start_session(
    model: Path | bytes,
    threads: int = 0,
    *,
    providers: Sequence[Provider] = (CPU,),
    spinning: Spinning = "always",
    custom_operators: Path | None = None,
) -> "onnxruntime.InferenceSession":
    """Return a session that runs one operator at a time and logs errors only.

    Args:
        model: A file, or its content.
        threads: CPU threads of one inference; 0 for all cores.
        providers: Execution providers in order of preference. ONNX Runtime leaves out those that it cannot start; the
            session's get_providers() tells which are active.
        spinning: When its idle threads spin. Spinning makes the next operator start sooner.
        custom_operators: A library of operators to register with ONNX Runtime.

    Raises:
        ImportError: ONNX Runtime is not installed.
        Exception: ONNX Runtime cannot load the graph or the library. Its exceptions share no base class.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: the warnings are about the machine, not about the graph
    entry = _SPINNING[spinning]
    if entry is not None:
        options.add_session_config_entry(*entry)
    if custom_operators is not None:
        options.register_custom_ops_library(str(custom_operators))
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=list(providers))
