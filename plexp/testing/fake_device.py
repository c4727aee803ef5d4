"""A device that is none: its tensors live in main memory, and refuse to meet tensors of another device.

So what would run on a GPU runs where there is none, with the same numbers, and a tensor left behind on the CPU is noticed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.backend_registration
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

torch.utils.backend_registration._setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere", 0)
CPU = torch.device("cpu")
SMALL = ("compile=false", "env.num_envs=2")


class FakeDeviceTensor(torch.Tensor):
    """Says that it is on DEVICE; `inner` holds its values."""

    inner: Tensor  # type: ignore[assignment]  # torch has a function of that name

    @staticmethod
    def __new__(cls, inner: Tensor) -> FakeDeviceTensor:
        made: FakeDeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @property  # type: ignore[override]  # in torch an attribute
    def data(self) -> FakeDeviceTensor:
        return FakeDeviceTensor(self.inner)

    @data.setter
    def data(self, value: FakeDeviceTensor) -> None:
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeDeviceTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return dispatch(function, args, kwargs or {})


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, DEVICE exists."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


def dispatch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do it in main memory. Raises RuntimeError where tensors of two devices meet."""
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
    elsewhere = any(isinstance(x, FakeDeviceTensor) for x in found)
    asked = kwargs.get("device")
    moves = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if elsewhere and not moves:
        strangers = [x.shape for x in found if not isinstance(x, FakeDeviceTensor) and x.dim()]
        if strangers:
            raise RuntimeError(f"{function} meets tensors of two devices: {strangers} are on the CPU")
    if asked is not None:
        elsewhere = torch.device(asked).type == DEVICE.type
        kwargs = {**kwargs, "device": CPU}
    if function is torch.ops.aten.copy_.default:
        elsewhere = isinstance(args[0], FakeDeviceTensor)
    plain_args, plain_kwargs = tree_map(lambda x: x.inner if isinstance(x, FakeDeviceTensor) else x, (args, kwargs))
    result = function(*plain_args, **plain_kwargs)
    known = {id(x.inner): x for x in found if isinstance(x, FakeDeviceTensor)}

    def placed(x: Any) -> Any:
        return (known[id(x)] if id(x) in known else FakeDeviceTensor(x)) if isinstance(x, Tensor) and elsewhere else x

    return tree_map(placed, result)


def main(overrides: list[str]) -> None:
    """Train two updates here and elsewhere; print what differs."""
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
                rollout = experiment.trainer.collector.collect()
                assert {x.device.type for x in vars(rollout).values()} == {"cpu"}, "rollouts stay in main memory"
                experiment.trainer.iterate(progress)
            agent.act_greedily(torch.from_numpy(experiment.trainer.collector.observations).to(device))
            weights.append(torch.cat([p.detach().cpu().reshape(-1) for p in agent.parameters()]))
        experiment.training_env.close()
    assert torch.equal(*weights), (weights[0] - weights[1]).abs().max()
    print("equal", *overrides)


if __name__ == "__main__":
    import sys

    for argument in sys.argv[1:]:
        main(argument.split())
