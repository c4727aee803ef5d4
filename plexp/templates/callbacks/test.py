"""Tests of mine: its contract, and what it does."""

from types import SimpleNamespace

from plexp.plugins.callbacks.mine import Mine

from plexp.testing import faults


def test_it_fulfils_the_contract() -> None:
    assert faults("callbacks", "mine") == []


def test_it_logs_the_best_return_so_far() -> None:
    callback, recorded = Mine(every=1), []
    for update, total in enumerate([3.0, 1.0, 5.0]):
        episodes = [SimpleNamespace(total_reward=total, length=1)]
        callback.on_iteration(SimpleNamespace(updates=update, finished=episodes, log=recorded.append))
    assert [each["best_return"] for each in recorded] == [3.0, 3.0, 5.0]
