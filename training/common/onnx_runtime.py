"""Start ONNX Runtime on the CPU, for graphs that are judged or checked."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def cpu_session(
    model: Path | bytes, threads: int, custom_operators: Path | None = None
) -> "onnxruntime.InferenceSession":
    """Return a session on the CPU provider that logs errors only.

    Args:
        model: A file, or its content.
        threads: CPU threads; 0 for all cores.
        custom_operators: A library of operators to register with ONNX Runtime.

    Raises:
        ImportError: ONNX Runtime is not installed.
        Exception: ONNX Runtime cannot load the graph or the library. Its exceptions share no base class.
    """
    # Imported here, because training needs ONNX Runtime only to judge an exported graph.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only, and they are raised
    if custom_operators is not None:
        options.register_custom_ops_library(str(custom_operators))
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
