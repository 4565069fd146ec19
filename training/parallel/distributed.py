"""Train one network in several processes, as `torchrun --nproc-per-node N -m training ...` starts them.

Every process holds all pictures and the same weights, draws the same batch, and computes its own part of it
(Shard.rows). The gradients are averaged after the backward pass. Batch norm takes its statistics over the whole batch,
and per-picture random draws are the whole batch's (training.parallel.synchronised). So the loss curve is that of one
process at the same --batch-size, but for the order in which sums are rounded. torch's DistributedDataParallel does not
serve: it hooks a module's forward, and the training methods run the two passes without calling it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from training.common.devices import checked_device
from training.common.errors import TrainingError
from training.parallel.parent import end_with_parent

# Reading a large image folder takes some processes longer than others. torchrun notices dead ones by itself.
_TIMEOUT = timedelta(hours=2)


class DistributedError(TrainingError):
    """Processes cannot work together as asked. The message names the fix."""


class StoppedElsewhere(RuntimeError):
    """Another process cannot continue, and says so itself."""


@dataclass(frozen=True)
class Shard:
    """This process's part of the work.

    Attributes:
        rank: Number of this process, from 0. Only the process of rank 0 writes files and prints.
        processes: How many there are.
    """

    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def rows(self, batch: Tensor) -> Tensor:
        """Return this process's part of a whole batch, (N, ...) to (N / processes, ...)."""
        return batch.chunk(self.processes)[self.rank] if self.processes > 1 else batch

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place, and return it."""
        if self.processes > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace each tensor by its mean over all processes, in place. A None must be None in all of them."""
        present = [tensor for tensor in tensors if tensor is not None]
        if self.processes == 1 or not present:
            return
        # All tensors travel in one message instead of one each.
        flat = self.sum_(torch.cat([tensor.flatten() for tensor in present])) / self.processes
        for tensor, mean in zip(present, flat.split([tensor.numel() for tensor in present]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def total(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        return self.sum_(torch.tensor(value, dtype=torch.float64)).item() if self.processes > 1 else value

    def largest(self, value: float) -> float:
        """Return the largest value of a number over all processes."""
        if self.processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.item()

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Make the code inside fail in all processes where it fails in one.

        The others raise StoppedElsewhere then, instead of waiting for ever. The code inside must not communicate.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        if self.processes > 1:
            failed: list[bool] = [False] * self.processes
            dist.all_gather_object(failed, problem is not None)
            # An error that all processes notice is reported by the first.
            if any(failed) and (problem is None or (failed[0] and not self.first)):
                raise StoppedElsewhere from None
        if problem is not None:
            raise problem


ALONE = Shard()
"""The only process, of a training without torchrun."""


def launched_processes() -> int:
    """Return how many processes torchrun started for this training; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_on_machine() -> bool:
    """Return whether this is the first process on its machine, the one to print what all of them notice."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def local_device(name: str) -> torch.device:
    """Return the device that --device names. With several processes "cuda" is each one's own GPU.

    Raises:
        DeviceError: There is no such device.
        DistributedError: There are too few GPUs, or all processes would share one.
    """
    device = checked_device(name)
    if launched_processes() == 1 or device.type != "cuda":
        return device
    if ":" in name:
        raise DistributedError(f"--device {name} is one GPU for all processes; pass --device cuda: each takes its own")
    rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if here > count:
        raise DistributedError(f"{here} processes but {count} GPUs; pass --nproc-per-node {count} or --device cpu")
    return torch.device("cuda", rank)


@contextmanager
def process_group(device: torch.device) -> Iterator[Shard]:
    """Initialise torch.distributed if torchrun launched this process. Otherwise yield a single-process shard.

    A process of torchrun ends when that does.
    """
    if launched_processes() == 1:
        yield ALONE
        return
    end_with_parent()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
