"""A fake device, whose tensors live in main memory and refuse to meet tensors of another device.

With it, code for a GPU runs where there is none, with the same numbers, and a tensor that was left on the CPU is noticed.
It uses private functions of torch for backends in Python; tried with torch 2.6 to 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.backend_registration
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from plexp.testing.fused_cells import CELLS

torch.utils.backend_registration._setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere", 0)
CPU = torch.device("cpu")
SMALL = ("compile=false", "env.num_envs=2")


class FakeDeviceTensor(torch.Tensor):
    """Tensor that claims to be on DEVICE; `inner` holds its values."""

    inner: Tensor  # type: ignore[assignment]  # torch has a function of that name

    @staticmethod
    def __new__(cls, inner: Tensor) -> FakeDeviceTensor:
        tensor: FakeDeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        tensor.inner = inner
        return tensor

    @property  # type: ignore[override]  # in torch an attribute
    def data(self) -> FakeDeviceTensor:
        return FakeDeviceTensor(self.inner)

    @data.setter
    def data(self, value: FakeDeviceTensor) -> None:
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = FakeDeviceTensor(self.inner.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeDeviceTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return dispatch(function, args, kwargs or {})


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which DEVICE exists."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


def dispatch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation in main memory. Raises RuntimeError where tensors of two devices meet."""
    tensors: list[Tensor] = []
    tree_map(lambda x: tensors.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
    elsewhere = any(isinstance(x, FakeDeviceTensor) for x in tensors)
    target = kwargs.get("device")
    moves = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if elsewhere and not moves:
        on_cpu = [x.shape for x in tensors if not isinstance(x, FakeDeviceTensor) and x.dim()]
        if on_cpu:
            raise RuntimeError(f"{function} meets tensors of two devices: {on_cpu} are on the CPU")
    if target is not None:
        elsewhere = torch.device(target).type == DEVICE.type
        kwargs = {**kwargs, "device": CPU}
    if function is torch.ops.aten.copy_.default:
        elsewhere = isinstance(args[0], FakeDeviceTensor)
    plain_args, plain_kwargs = tree_map(lambda x: x.inner if isinstance(x, FakeDeviceTensor) else x, (args, kwargs))
    result = CELLS.get(function, function)(*plain_args, **plain_kwargs)
    wrapped = {id(x.inner): x for x in tensors if isinstance(x, FakeDeviceTensor)}

    def placed(x: Any) -> Any:
        return (
            (wrapped[id(x)] if id(x) in wrapped else FakeDeviceTensor(x)) if isinstance(x, Tensor) and elsewhere else x
        )

    return tree_map(placed, result)


def main(overrides: list[str]) -> None:
    """Train two updates on the CPU and on the fake device; fail if the weights differ, by more than rounding if recurrent."""
    from plexp.config.compose import compose, resolve
    from plexp.execution.experiment import build
    from plexp.training.progress import TrainingProgress

    torch.__future__.set_swap_module_params_on_conversion(True)
    weights = []
    for device in ("cpu", "elsewhere"):
        config = compose(*overrides, f"device={device}", *SMALL)
        with FakeDevice():  # type: ignore[no-untyped-call]
            experiment = build(resolve(config))
            agent, progress = experiment.agent, TrainingProgress()
            assert {p.device.type for p in agent.parameters()} == {device}
            for _ in range(2):
                trajectory = experiment.trainer.collector.collect()
                kinds = {x.device.type for x in trajectory.given().values()}
                assert kinds == {"cpu"}, "trajectories stay in main memory"
                experiment.trainer.iterate(progress)
            collector = experiment.trainer.collector
            agent.act_greedily(torch.from_numpy(collector.observations).to(device), collector.state)
            weights.append(torch.cat([p.detach().cpu().reshape(-1) for p in agent.parameters()]))
        experiment.close()
    largest = float((weights[0] - weights[1]).abs().max())
    assert largest <= (1e-4 if agent.state_size else 0), (
        largest
    )  # recurrent cells are other code there, and round otherwise
    print("equal", *overrides)


if __name__ == "__main__":
    import sys

    for argument in sys.argv[1:]:
        main(argument.split())
