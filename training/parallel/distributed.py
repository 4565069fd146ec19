"""Training one network in several processes, as `torchrun --nproc-per-node N -m training ...` starts them.

Every process holds all pictures and the same weights, draws the same batch, and computes its own part of it
(Shard.rows). The gradients are averaged after the backward pass, batch norm takes its statistics over the whole batch,
and per-picture random draws are the whole batch's (training.parallel.synchronised). That makes the loss curve one
process's at
the same --batch-size, but for the order in which sums are rounded. DistributedDataParallel hooks a module's forward,
which the training methods do not call: they run the two passes themselves.
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

# Reading a large image folder takes some processes longer than others. torchrun notices dead ones by itself.
_PATIENCE = timedelta(hours=2)


class DistributedError(ValueError):
    """Processes that cannot work together as asked; the message names the fix."""


class StoppedElsewhere(RuntimeError):
    """Another process cannot go on, and says so itself."""


@dataclass(frozen=True)
class Shard:
    """This process's part of the work.

    rank:      of this process, from 0; the process of rank 0 alone writes files and talks to people
    processes: how many there are
    """

    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def rows(self, batch: Tensor) -> Tensor:
        """This process's part of a whole batch, (N, ...) -> (N / processes, ...)."""
        return batch.chunk(self.processes)[self.rank] if self.processes > 1 else batch

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_(self, tensors: Iterable[Tensor | None]) -> None:
        """Replaces each tensor by its mean over all processes; where it is None, it must be so in all of them."""
        present = [tensor for tensor in tensors if tensor is not None]
        if self.processes == 1 or not present:
            return
        # One message instead of one a tensor.
        flat = self.sum_(torch.cat([tensor.flatten() for tensor in present])) / self.processes
        for tensor, mean in zip(present, flat.split([tensor.numel() for tensor in present]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return self.sum_(torch.tensor(value, dtype=torch.float64)).item() if self.processes > 1 else value

    def largest(self, value: float) -> float:
        """The largest of a number over all processes."""
        if self.processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.item()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends in all processes or in none: where one raises, the others raise StoppedElsewhere instead of hanging.

        Not for code that communicates within.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        if self.processes > 1:
            failed: list[bool] = [False] * self.processes
            dist.all_gather_object(failed, problem is not None)
            # Mistakes that all processes notice are told by the first.
            if any(failed) and (problem is None or (failed[0] and not self.first)):
                raise StoppedElsewhere from None
        if problem is not None:
            raise problem


ALONE = Shard()
"""Training without torchrun."""


def launched_processes() -> int:
    """How many processes torchrun started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_here() -> bool:
    """Whether this is the first process on its machine, the one to tell what all of them notice."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def local_device(name: str) -> torch.device:
    """The device that --device names; with several processes "cuda" is each one's own GPU.

    raises ValueError where there is no such device, DistributedError where there are too few GPUs, or one that all
    processes would share
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
    """Within, the processes that torchrun started can talk to each other; the only shard without torchrun."""
    if launched_processes() == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
