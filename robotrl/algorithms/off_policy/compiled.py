"""Gradient steps compiled by `torch.compile`: fused kernels on a CPU, one replayed CUDA graph on a GPU.

A compiled step is one graph that draws nothing: the first step of each kind runs as it is and its draws are
noted; those of later steps are made beforehand, from the same generators in the same order, and handed in. So
both ways use the same random numbers and change the same tensors, and a run may be resumed either way.

On one CPU core, where products of matrices are most of an update, this makes EXPO 1.35 times and RLPD 1.26
times as fast, SAC, TD3 and FQL no faster than noise (`scripts/bench_update.py`, on a busy machine). On a GPU
it has not been run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robotrl.core.errors import UsageError
from robotrl.data.replay import Transitions

Step = Callable[[Transitions, bool], dict[str, Tensor]]
"""Learns from a batch, the policy too or not; returns scalars to log."""


class CompiledStep:
    """A learner's gradient step, compiled for each kind and size of batch when it comes for the second time.

    Args:
        step: what is compiled; everything that it changes are tensors that `owner` holds.
        owner: the learner.
        device: of its tensors.

    Raises:
        UsageError: there is nothing here to compile with.
    """

    def __init__(self, step: Step, owner: object, device: torch.device) -> None:
        check_compiler(device)
        self._step, self._owner = step, owner
        self._draws: dict[tuple[bool, int], list[Callable[[], Tensor]]] = {}
        # replaying a CUDA graph is what spares a GPU its launches
        mode = "reduce-overhead" if device.type == "cuda" else None
        self._compiled = torch.compile(self._given, fullgraph=True, dynamic=False, mode=mode)

    def __call__(self, batch: Transitions, with_policy: bool) -> dict[str, Tensor]:
        """Do one step."""
        kind = with_policy, len(batch.reward)
        if kind not in self._draws:
            with _NotedDraws(type(self._owner).__name__) as noted:
                metrics = self._step(batch, with_policy)
            self._draws[kind] = noted.draws
            for tensor in held_tensors(self._owner):
                torch._dynamo.mark_static_address(tensor)
            return metrics
        drawn = [draw() for draw in self._draws[kind]]
        torch.compiler.cudagraph_mark_step_begin()
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            metrics = self._compiled(batch, with_policy, drawn)
        # the next replay of a CUDA graph writes where this one did
        return {name: value.clone() for name, value in metrics.items()}

    def _given(self, batch: Transitions, with_policy: bool, drawn: list[Tensor]) -> dict[str, Tensor]:
        with _GivenDraws(drawn):
            return self._step(batch, with_policy)


class _NotedDraws(TorchFunctionMode):
    """Notes how to repeat what is drawn from explicit generators.

    Attributes:
        draws: each makes the next draw.
    """

    def __init__(self, algorithm: str) -> None:
        super().__init__()
        self.draws: list[Callable[[], Tensor]] = []
        self._algorithm = algorithm

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if kwargs.get("generator") is None:
            return out
        if args and out is args[0]:
            like = torch.empty(out.shape, dtype=out.dtype, device=out.device)
            self.draws.append(partial(_fill, func, like, *args[1:], **kwargs))
        elif not any(isinstance(value, Tensor) for value in args):
            self.draws.append(partial(func, *args, **kwargs))
        else:
            raise UsageError(
                f"algorithm.compile=true: {self._algorithm} draws by {func.__name__} from what it computes, "
                "which no compiled update can: leave algorithm.compile at false"
            )
        return out


def _fill(func: Callable[..., Tensor], like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return func(torch.empty_like(like), *args, **kwargs)


class _GivenDraws(TorchFunctionMode):
    """Takes what was drawn beforehand in place of drawing."""

    def __init__(self, drawn: list[Tensor]) -> None:
        super().__init__()
        self._drawn = drawn

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            # a copy, as what is drawn may be changed in place and a graph's inputs may not
            return self._drawn.pop(0).clone()
        if func is torch.Tensor.unflatten:  # calls super(), which cannot be traced from here
            func = torch.unflatten
        return func(*args, **kwargs)


def held_tensors(thing: object) -> Iterator[Tensor]:
    """Yield the tensors that a learner holds: parameters, moments, averages and the room for gradients.

    CUDA graphs write where they wrote when they were recorded, so each of them has to stay in its place.
    """
    seen: set[int] = set()
    left = [thing]
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, (list, tuple)):
            left += item
        elif isinstance(item, torch.optim.Optimizer):
            left.append(item.state)
        elif isinstance(item, torch.nn.Module) or type(item).__module__.startswith("robotrl."):
            left += getattr(item, "__dict__", {}).values()


def check_compiler(device: torch.device) -> None:
    """Check that what `torch.compile` needs is here.

    Raises:
        UsageError: it is not; says what to install.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UsageError(
                "algorithm.compile=true needs triton on a GPU: pip install triton, or leave it at false"
            )
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UsageError(
            f"algorithm.compile=true needs a C++ compiler, and there is no {compiler} on PATH: install it "
            "(on Debian and Ubuntu: apt install g++), name another one in CXX, or leave compile at false"
        )
