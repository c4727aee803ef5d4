"""Tests of mine: its contract, and what it does."""

from plexp.plugins.env.mine import Corridor

from plexp.testing import faults


def test_it_fulfils_the_contract() -> None:
    assert faults("env", "mine") == []


def test_going_right_arrives_and_pays() -> None:
    env = Corridor(length=4)
    env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, _, _ = env.step(1)
        rewards.append(reward)
    assert rewards[-1] == 1.0 and len(rewards) <= 3
