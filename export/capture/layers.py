"""Find the layer of a network that an error happened in, so that a user can act on the error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode


class LayerTracker:
    """Know which layer of a network is running, inside the context manager `tracking`."""

    def __init__(self, network: nn.Module, on_leave: Callable[[str], None] = lambda _: None):
        """Make a tracker of this network's layers.

        Args:
            network: The network.
            on_leave: Is called with a layer's name and kind when it has ended, and when it calls another layer.
        """
        self._network = network
        self._on_leave = on_leave
        self._running: list[str] = []
        self._calls = _RunningCall()

    @property
    def innermost(self) -> str | None:
        """Name and kind of the innermost layer that has begun and not ended, such as `backbone.3 (AdaptiveMaxPool2d)`.

        After an exception it is the layer that raised it. None outside every layer.
        """
        return self._running[-1] if self._running else None

    @property
    def operator(self) -> str | None:
        """Name of PyTorch's function that is running, or that raised the exception, such as `torch.nonzero`."""
        return self._calls.name

    def watching_calls(self) -> TorchFunctionMode:
        """Return a context manager that keeps `operator` up to date."""
        return self._calls

    @contextmanager
    def tracking(self) -> Iterator["LayerTracker"]:
        """Keep `innermost` up to date, by hooks that are removed at the end."""
        hooks = []
        for name, module in self._network.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # a ScriptModule takes no hooks
                label = f"{name} ({type(module).__name__})"
                hooks.append(module.register_forward_pre_hook(lambda *_, label=label: self._began(label)))
                hooks.append(module.register_forward_hook(lambda *_: self._ended()))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _began(self, label: str) -> None:
        if self._running:
            self._on_leave(self._running[-1])
        self._running.append(label)

    def _ended(self) -> None:
        self._on_leave(self._running.pop())


class _RunningCall(TorchFunctionMode):
    """Know which of PyTorch's functions has begun and not ended."""

    def __init__(self) -> None:
        super().__init__()
        self.name: str | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, self.name = self.name, resolve_name(func)
        result = func(*args, **(kwargs or {}))
        self.name = before
        return result


def layer_of_operator(network: nn.Module, operator: str, images: Tensor) -> str | None:
    """Return the first layer that calls an operator, found by running the network once.

    Args:
        network: Network in eval mode.
        operator: Name as in `aten::adaptive_max_pool2d`. For a backward operator its forward operator is looked for.
        images: (N, C, H, W) to run the network on.

    Returns:
        Name and kind, such as `backbone.3 (AdaptiveMaxPool2d)`, or None where no layer calls the operator.
    """
    name = _base_name(operator)
    found: list[str] = []
    tracker = LayerTracker(network)

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if _base_name(func._schema.name) == name and tracker.innermost is not None:
                found.append(tracker.innermost)
            return func(*args, **(kwargs or {}))

    with tracker.tracking(), Watching(), torch.no_grad():  # type: ignore[no-untyped-call]
        network(images)
    return found[0] if found else None


def _base_name(operator: str) -> str:
    """Return an operator's name without library, overload, and the marks of backward and in-place operators."""
    return operator.split("::")[-1].split(".")[0].removeprefix("_").removesuffix("_backward").removesuffix("_")
