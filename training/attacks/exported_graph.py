"""An exported ONNX graph as a network under attack, so that what is served is what was judged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.attacks.base import AttackOn, Classifier

STATE = "exported graph"


class ExportedGraphError(ValueError):
    """A file that is no graph of this checkpoint; the message names the file and the fix."""


class ExportedGraph:
    """Answers by ONNX Runtime on the CPU; without derivatives, so for black-box and transfer attacks.

    path:              written by `python -m export`
    checkpoint_sha256: of the checkpoint that it must have been exported from
    threads:           CPU threads; 0 for all cores
    raises ExportedGraphError
    """

    def __init__(self, path: Path, checkpoint_sha256: str, threads: int = 0):
        try:
            # Only whoever judges a graph needs ONNX Runtime.
            import onnxruntime
        except ImportError:
            raise ExportedGraphError("--onnx needs ONNX Runtime: pip install onnxruntime") from None
        if not path.is_file():
            raise ExportedGraphError(f"{path}: no such file; write it with `python -m export --ckpt ... --onnx {path}`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            detail = " ".join(str(error).split())[:300]
            raise ExportedGraphError(f"{path}: ONNX Runtime cannot run it ({detail}); export it again") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        if metadata.get("precision") == "bf16":  # float16 and 8 bits are in the graph itself
            raise ExportedGraphError(
                f"{path}: was exported for bf16, which ONNX Runtime would compute in float32, so that another network "
                "would be judged; name one exported without --precision bf16"
            )
        exported_from = metadata.get("checkpoint_sha256", "")
        if exported_from != checkpoint_sha256:
            raise ExportedGraphError(
                f"{path}: exported from another checkpoint ({exported_from[:12] or 'unknown'}) than --ckpt "
                f"({checkpoint_sha256[:12]}); export this one or name the other"
            )
        self._outputs = {output.name for output in self._session.get_outputs()}

    def __call__(self, images: Tensor, self_gradient: bool = True) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to logits (N, classes) on the images' device."""
        name = "logits" if self_gradient and "logits" in self._outputs else "plain_logits"
        (logits,) = self._session.run([name], {"image": images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(images.device)


@dataclass(frozen=True)
class OnExportedGraph:
    """An attack that needs answers only, on the exported graph instead of the checkpoint.

    graph_sha256: of the graph's file
    """

    attack: AttackOn[Classifier]
    graph_sha256: str

    @property
    def name(self) -> str:
        return self.attack.name

    @property
    def block(self) -> bool:
        return self.attack.block

    @property
    def state(self) -> str:
        return STATE

    @property
    def survivors_of(self) -> tuple[str, ...]:
        return self.attack.survivors_of

    def parameters(self) -> dict[str, Any]:
        return {**self.attack.parameters(), "graph_sha256": self.graph_sha256}

    def perturb(self, model: Classifier, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Shapes as for attacks.pgd."""
        return self.attack.perturb(model, images, labels, eps)
