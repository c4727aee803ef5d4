"""Tests of layouts: what is packed is read back, and networks get what gymnasium would flatten."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plexp.envs.packing import PackedSpace, PackObservation
from plexp.nn.layout import LEGAL, VECTOR, Layout, ObservationReader

IMAGE = spaces.Box(0, 255, (5, 4, 3), np.uint8)
STATE = spaces.Dict(
    speed=spaces.Box(-1, 1, (3,), np.float32),
    place=spaces.Tuple((spaces.Discrete(4), spaces.Box(-9, 9, (2, 2), np.float64))),
    level=spaces.Box(0, 10, (), np.int64),
    keys=spaces.MultiBinary(2),
)
SPACES = {
    "numbers": STATE,
    "with an image": spaces.Dict(
        bits=spaces.MultiBinary(3), camera=IMAGE, state=STATE, mode=spaces.MultiDiscrete([2, 3])
    ),
    "only an image": spaces.Dict(camera=IMAGE),
}


class Shows(gymnasium.Env[Any, Any]):
    """Environment with random observations of a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.last = self.observation_space.sample()
        return self.last, {}


def packed(space: spaces.Space[Any], rows: int = 6) -> tuple[Layout, torch.Tensor, list[Any]]:
    env = PackObservation(Shows(space), "none")
    space.seed(0)
    batch, originals = [], []
    for _ in range(rows):
        batch.append(env.reset()[0])
        originals.append(env.unwrapped.last)
    return env.space.layout, torch.from_numpy(np.stack(batch)), originals


@pytest.mark.parametrize("name", SPACES)
def test_a_row_holds_each_part_as_it_was(name: str) -> None:
    layout, rows, originals = packed(SPACES[name])
    read = layout.read(rows)
    for i, original in enumerate(originals):
        leaves = {"camera": original.get("camera")} if name != "numbers" else {}
        state = original if name == "numbers" else original.get("state")
        prefix = "" if name == "numbers" else "state/"
        if state is not None:
            leaves |= {f"{prefix}speed": state["speed"], f"{prefix}place/1": state["place"][1].astype(np.float32)}
            leaves |= {f"{prefix}level": state["level"].reshape(1), f"{prefix}place/0": np.eye(4)[state["place"][0]]}
        for key, value in leaves.items():
            assert np.array_equal(read[key][i].numpy(), value), key
    assert all(values.dtype == (torch.uint8 if key == "camera" else torch.float32) for key, values in read.items())


@pytest.mark.parametrize("name", SPACES)
def test_a_network_without_parts_gets_what_gymnasium_flattens(name: str) -> None:
    layout, rows, originals = packed(SPACES[name])
    reader = ObservationReader((layout.size,), layout=layout)
    expected = np.stack([spaces.flatten(SPACES[name], each) for each in originals]).astype(np.float32)
    vector = reader(rows)
    assert isinstance(vector, torch.Tensor) and np.array_equal(vector.numpy(), expected)
    assert reader.inputs == expected.shape[1:]


@pytest.mark.parametrize("name", SPACES)
def test_a_network_of_parts_gets_numbers_standardized_and_the_rest_as_it_is(name: str) -> None:
    layout, rows, _ = packed(SPACES[name], 40)
    reader = ObservationReader((layout.size,), normalized=True, layout=layout, by_parts=True)
    reader.update(rows)
    raw, read = layout.read(rows), reader(rows)
    assert isinstance(read, dict) and read.keys() == raw.keys() == reader.inputs.keys()
    for key, part in layout.parts.items():
        assert read[key].shape == (40, *part.shape)
        if part.kind == "numbers":
            values = raw[key].double()
            expected = (values - values.mean(0)) / (values.var(0, correction=0) + 1e-8).sqrt()
            torch.testing.assert_close(read[key].double(), expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(read[key], raw[key])


def test_an_image_takes_a_byte_a_pixel_and_the_rest_its_floats() -> None:
    layout, rows, _ = packed(SPACES["with an image"])
    floats = 4 * (3 + 3 + 4 + 4 + 1 + 2 + 5)
    assert rows.dtype == torch.uint8 and 0 <= layout.size - floats - 5 * 4 * 3 < 8


def test_every_shape_of_batch_and_any_slice_of_it_can_be_read() -> None:
    layout, rows, _ = packed(SPACES["with an image"])
    whole = layout.read(rows)
    grid = rows.view(2, 3, -1)
    assert all(torch.equal(part.flatten(0, 1), whole[key]) for key, part in layout.read(grid).items())
    assert all(torch.equal(part, whole[key][1:5:2]) for key, part in layout.read(rows[1:5:2]).items())
    assert all(torch.equal(part[0], whole[key][4]) for key, part in layout.read(rows[4:5]).items())


def test_numbers_are_those_that_must_be_finite() -> None:
    layout, rows, _ = packed(SPACES["with an image"])
    parts = [part for name, part in layout.read(rows).items() if layout.parts[name].kind == "numbers"]
    expected = torch.cat([part.flatten(1) for part in parts], 1)
    assert expected.shape == (6, 13) and np.array_equal(layout.numbers(rows.numpy()), expected.numpy())


def test_the_mask_is_apart_from_what_the_network_sees() -> None:
    layout = Layout([("room", "numbers", (3,)), (LEGAL, "mask", (2,))])
    rows = torch.from_numpy(np.stack([layout.pack([np.array([1, 2, 3]), np.array([True, False])])]))
    reader = ObservationReader((5,), layout=layout)
    read = reader(rows)
    assert reader.has_mask and reader.inputs == (3,) and isinstance(read, dict)
    assert read[VECTOR].tolist() == [[1, 2, 3]] and read[LEGAL].tolist() == [[True, False]]


def test_the_bounds_of_a_row_are_those_of_its_parts() -> None:
    space = PackObservation(Shows(STATE), "none").observation_space
    assert isinstance(space, PackedSpace) and space.dtype == np.float32
    flat: Any = spaces.flatten_space(STATE)
    assert np.array_equal(space.low, flat.low.astype(np.float32)) and np.array_equal(
        space.high, flat.high.astype(np.float32)
    )
    assert space == PackObservation(Shows(STATE), "none").observation_space != flat
