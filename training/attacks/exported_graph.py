"""Let an exported ONNX graph be attacked, so that what is served is what was judged."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import GRAPH_SHA256_FIELD, INPUT, LOGITS, PLAIN_LOGITS, PRECISION_KEY, SHA256_KEY
from sgn_serve.common.onnx_runtime import start_session
from training.attacks.base import AttackOn, TargetModel
from training.attacks.names import graph_fix
from training.attacks.rows import RowFilter, RowId
from training.common.errors import TrainingError
from training.networks.names import SelfGradient


class ExportedGraphError(TrainingError):
    """A file that is no graph of this checkpoint; the message names the file and the fix."""


class ExportedGraph:
    """A graph that ONNX Runtime runs on the CPU. It has no derivatives, so black-box and transfer attacks are left."""

    def __init__(self, path: Path, checkpoint_sha256: str, threads: int = 0):
        """Load the graph.

        Args:
            path: The file that `python -m export` wrote.
            checkpoint_sha256: SHA-256 of the checkpoint that it must have been exported from.
            threads: CPU threads; 0 for all cores.

        Raises:
            ExportedGraphError: The file cannot be run, or is of another checkpoint or of a precision that ONNX Runtime
                does not compute in.
        """
        if not path.is_file():
            raise ExportedGraphError(f"{path}: no such file; {graph_fix(path)}")
        try:
            self._session = start_session(path, threads)
        except ImportError:
            raise ExportedGraphError("--onnx needs ONNX Runtime: pip install onnxruntime") from None
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ExportedGraphError(
                f"{path}: ONNX Runtime cannot run it ({one_line(error)}); export it again"
            ) from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        if metadata.get(PRECISION_KEY) == "bf16":  # float16 is in the graph itself
            raise ExportedGraphError(
                f"{path}: was exported for bf16, which ONNX Runtime would compute in float32, so that another network "
                "would be judged; name one exported without --precision bf16"
            )
        exported_from = metadata.get(SHA256_KEY, "")
        if exported_from != checkpoint_sha256:
            raise ExportedGraphError(
                f"{path}: exported from another checkpoint ({exported_from[:12] or 'unknown'}) than --ckpt "
                f"({checkpoint_sha256[:12]}); export this one or name the other"
            )
        self._outputs = {output.name for output in self._session.get_outputs()}

    def __call__(self, images: Tensor, self_gradient: SelfGradient = True) -> Tensor:
        """Return the logits, (N, classes), of images (N, 3, H, W) in [0, 1], on the images' device.

        Raises:
            ValueError: self_gradient is "auto", which the graph alone does not do.
        """
        if self_gradient == "auto":
            raise ValueError('a graph has no self_gradient="auto" of its own; judge the checkpoint')
        name = LOGITS if self_gradient and LOGITS in self._outputs else PLAIN_LOGITS
        (logits,) = self._session.run([name], {INPUT: images.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(images.device)


@dataclass(frozen=True)
class OnExportedGraph:
    """Run an attack that needs answers only on the exported graph instead of the checkpoint.

    Attributes:
        attack: The attack.
        graph_sha256: SHA-256 of the graph's file.
    """

    attack: AttackOn[TargetModel]
    graph_sha256: str

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return replace(self.attack.id, state="exported graph")

    @property
    def block(self) -> SelfGradient:
        """Whether the graph is run with its block on."""
        return self.attack.block

    @property
    def survivors_of(self) -> tuple[RowFilter, ...]:
        """Rows of the exported graph whose survivors alone are attacked."""
        return self.attack.survivors_of

    def network_calls(self, classes: int) -> int:
        """Return how often a network is called on a picture that withstands the attack."""
        return self.attack.network_calls(classes)

    def parameters(self) -> dict[str, Any]:
        """Return the attack's parameters and the graph's hash, as JSON can hold them."""
        return {**self.attack.parameters(), GRAPH_SHA256_FIELD: self.graph_sha256}

    def perturb(self, model: TargetModel, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
        return self.attack.perturb(model, images, labels, eps)
