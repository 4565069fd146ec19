"""Pack a network, its pictures and its attacks for other machines, and unpack them there."""

import hashlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import file_sha256
from training.attacks.base import AttackOn
from training.attacks.exported_graph import ExportedGraph, ExportedGraphError
from training.common.errors import TrainingError
from training.common.provenance import current_versions
from training.evaluate.checks import Check
from training.evaluate.measuring import BatchResult, Trial, measure_batch
from training.evaluate.row_plan import Batch
from training.networks.self_gradient import SelfGradientNetwork

_PACKAGE = Path(__file__).parents[2]


class MachineError(TrainingError):
    """A machine of the cluster cannot attack what it was sent. The message has no name of the machine."""


@dataclass(frozen=True)
class GraphFile:
    """An exported graph that is under the same path on every machine.

    Attributes:
        path: The file, absolute.
        sha256: SHA-256 of the file.
        checkpoint_sha256: SHA-256 of the checkpoint that it was exported from.
    """

    path: Path
    sha256: str
    checkpoint_sha256: str


@dataclass(frozen=True)
class Subject:
    """The part of a trial that all batches share, as it is sent to a machine.

    Attributes:
        images: Those of the trial: (N, H, W, 3), or (N, 3, H, W) where the trial's are laid out so. Workers of one
            machine share them.
        channels_last: Whether they are (N, H, W, 3).
        labels: (N).
        network: The pickled network and list of attacks.
        eps: See Trial.
        seed: See Trial.
        batch_size: See Trial.
        graph: The exported graph, None where none is attacked.
        threads: CPU threads of a batch.
        on_gpu: Whether batches are attacked on a GPU.
        software: Versions that must be the same on every machine, by name.
    """

    images: NDArray[np.float32]
    channels_last: bool
    labels: NDArray[np.int64]
    network: bytes = field(repr=False)
    eps: float
    seed: int
    batch_size: int
    graph: GraphFile | None
    threads: int
    on_gpu: bool
    software: dict[str, str]


def pack(
    trial: Trial[SelfGradientNetwork],
    attacks: Sequence[AttackOn[Any]],
    *,
    graph: GraphFile | None,
    threads: int,
    on_gpu: bool,
    own_code: Path | None = None,
) -> Subject:
    """Return what other machines need of an evaluation.

    Args:
        trial: The network and the pictures.
        attacks: All attacks, which number the rows.
        graph: The exported graph, where it is attacked too.
        threads: CPU threads of a batch.
        on_gpu: Whether batches are attacked on a GPU.
        own_code: The file of --module. It goes along, and the files beside it that it has imported.

    Raises:
        MachineError: The network cannot be sent.
    """
    from ray import cloudpickle

    images = trial.images.cpu()
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    sent = list(_modules_in(own_code.absolute().parent)) if own_code is not None else []
    for module in sent:
        cloudpickle.register_pickle_by_value(module)
    try:
        network = cloudpickle.dumps((trial.model, list(attacks)))
    except Exception as error:  # whatever the network holds
        raise MachineError(
            f"--ray: the network cannot be sent to other machines ({type(error).__name__}: {one_line(error)}); keep "
            "open files and the like out of it, or leave --ray out"
        ) from None
    finally:
        for module in sent:
            cloudpickle.unregister_pickle_by_value(module)
    return Subject(
        images=(images.permute(0, 2, 3, 1) if last else images.contiguous()).numpy(),
        channels_last=last,
        labels=trial.labels.cpu().numpy(),
        network=network,
        eps=trial.eps,
        seed=trial.seed,
        batch_size=trial.batch_size,
        graph=graph,
        threads=threads,
        on_gpu=on_gpu,
        software=software(),
    )


class Unpacked:
    """A subject that a process has made ready.

    Args:
        subject: The subject.

    Raises:
        TrainingError: This machine cannot attack it.
    """

    def __init__(self, subject: Subject):
        check_software(subject.software)
        torch.set_num_threads(subject.threads)
        from ray import cloudpickle

        try:
            model, attacks = cloudpickle.loads(subject.network)
        except Exception as error:  # whatever the network needs
            raise MachineError(
                f"it cannot load the network ({type(error).__name__}: {one_line(error)}); install what its code imports"
            ) from None
        with warnings.catch_warnings():
            # The arrays are shared and cannot be written to. Batches are copies.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images, labels = torch.from_numpy(subject.images), torch.from_numpy(subject.labels)
        if subject.on_gpu and not torch.cuda.is_available():
            raise MachineError(
                "Ray has given it a GPU, and PyTorch finds none; install PyTorch for CUDA there, or pass "
                "--gpus-per-task 0"
            )
        device = "cuda" if subject.on_gpu else "cpu"
        for network in (model, *_networks_in(attacks)):
            network.to(device)
        self._trial = Trial(
            model,
            (images.permute(0, 3, 1, 2) if subject.channels_last else images).to(device),
            labels.to(device),
            subject.eps,
            subject.seed,
            subject.batch_size,
        )
        self._attacks: list[AttackOn[Any]] = attacks
        self._graph = None if subject.graph is None else _load(subject.graph, subject.threads)

    def do(self, work: Batch | Check) -> BatchResult | dict[str, Any]:
        """Attack a batch as measuring.measure_batch does, or measure a check, and return the result."""
        if isinstance(work, Check):
            return work.measure(self._trial, self._attacks)
        attack = self._attacks[work.row]
        if attack.id.state != "exported graph":
            return measure_batch(self._trial, attack, work.pictures)
        assert self._graph is not None, "such an attack comes with its graph"
        return measure_batch(self._trial.of(self._graph), attack, work.pictures)


def check_software(wanted: dict[str, str]) -> None:
    """Check that this machine has the same software as another one.

    Args:
        wanted: Versions that software() gives there.

    Raises:
        MachineError: It has not.
        OSError: A file of this package cannot be read.
    """
    here = software()
    differing = [f"{name} {here[name][:12]} and not {text[:12]}" for name, text in wanted.items() if here[name] != text]
    if differing:
        raise MachineError(
            f"it has {', '.join(differing)} as where the command runs; install the same on every machine"
        )


@cache
def software() -> dict[str, str]:
    """Return the versions that figures may depend on, and the SHA-256 of this package's code, by name.

    Raises:
        OSError: A file of this package cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return {**current_versions(), "code": digest.hexdigest()}


def _load(graph: GraphFile, threads: int) -> ExportedGraph:
    if graph.path.is_file() and file_sha256(graph.path) != graph.sha256:
        raise ExportedGraphError(f"{graph.path} is another graph there; put the same file there")
    return ExportedGraph(graph.path, graph.checkpoint_sha256, threads)


def _networks_in(value: Any) -> Iterator[nn.Module]:
    """Return the networks that attacks have of their own, such as that of --transfer-from."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _networks_in(item)
    elif is_dataclass(value):
        for part in fields(value):
            yield from _networks_in(getattr(value, part.name))


def _modules_in(folder: Path) -> Iterator[ModuleType]:
    """Return the modules that were imported from files of a folder. Packages are installed on every machine."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and "." not in name and name != "__main__" and Path(file) == folder / f"{name}.py":
            yield module
