"""Tests of grouping runs for a comparison: which are compared, under which labels, and the notes on the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from plexp.analysis.grouping import check_key, cut_to, group_runs, labels, select, setting
from plexp.errors import ConfigError
from plexp.tracking.history import RecordedRun
from tests.support.stores import recorded


def sizes(runs: list[RecordedRun], by: list[str] | None = None) -> dict[str, int]:
    return {group.label: len(group.runs) for group in group_runs(runs, by).groups}


def test_runs_are_grouped_by_every_param_that_differs_except_the_seed() -> None:
    runs = [recorded(seed=s, net__layers=n, net__width=w) for s in range(3) for n in (1, 2, 10) for w in (32, 64)]
    grouping = group_runs(runs, None)
    assert grouping.keys == ["net.layers", "net.width"] and grouping.notes == []
    assert [group.label for group in grouping.groups] == [
        f"net.layers={layers} net.width={width}" for layers in (1, 2, 10) for width in (32, 64)
    ]
    assert {len(group.runs) for group in grouping.groups} == {3}


def test_params_without_effect_on_learning_make_no_groups() -> None:
    changes = {
        "outputs": "a",
        "tracker__every": 7,
        "torch_threads": 2,
        "compile": "false",
        "evaluation__final_episodes": 5,
    }
    runs = [recorded(seed=0), recorded(seed=1, **changes)]
    assert sizes(runs) == {"all runs": 2}


def test_labels_have_only_the_params_that_distinguish_the_groups() -> None:
    ppo = [recorded(seed=s, algo__clip_eps=0.2, advantage__plugin="gae") for s in range(2)]
    a2c = [recorded(seed=s, algo__plugin="a2c", advantage__plugin="n_step") for s in range(2)]
    assert sizes(ppo + a2c) == {"a2c": 2, "ppo": 2}


def test_labels_of_many_params_have_only_the_unusual_values() -> None:
    usual = {"a": "1", "b": "2", "c.plugin": "x"}
    settings = [usual, {**usual, "a": "9"}, {**usual, "b": "null"}, {**usual, "c.plugin": "y"}]
    assert labels(settings) == ["as the others usually are", "a=9", "b=null", "c=y"]
    assert labels([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}]) == ["a=1 b=2", "a=1 b=3"]
    assert labels([{}]) == ["all runs"]


def test_labels_are_unique() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = {tuple(map(str, rng.choice(["1", "2", "–"], 4, p=[0.7, 0.2, 0.1]))) for _ in range(8)}
        made = labels([dict(zip("abcd", row, strict=True)) for row in rows])
        assert len(set(made)) == len(rows)


def test_by_defines_the_groups_and_a_note_lists_what_differs_within() -> None:
    runs = [recorded(seed=s, net__layers=n, net__width=w) for s in range(2) for n in (1, 2) for w in (32, 64)]
    grouping = group_runs(runs, ["net.layers"])
    assert {group.label: len(group.runs) for group in grouping.groups} == {"net.layers=1": 4, "net.layers=2": 4}
    assert grouping.notes == ["differs within groups, so that its effect is in their spread: net.width (32, 64)."]


def test_the_value_of_a_config_group_is_its_option_or_else_its_plugin() -> None:
    mine = recorded(tags={"choice.algo": "my_ppo"})
    assert setting(mine, "algo") == "my_ppo" and setting(recorded(), "algo") == "ppo"
    assert setting(mine, "algo.plugin") == "ppo" and setting(mine, "nothing") == "–"
    assert sizes([mine, recorded(seed=1)], ["algo"]) == {"my_ppo": 1, "ppo": 1}
    assert sizes([mine, recorded(seed=1)], ["algo", "seed"]) == {"my_ppo seed=0": 1, "ppo seed=1": 1}


def test_of_duplicate_runs_the_newest_counts_and_a_note_names_the_other() -> None:
    old, new, other = recorded(seed=3), recorded(seed=3), recorded(seed=4)
    grouping = group_runs([new, other, old], None)
    assert {run.run_id for run in grouping.groups[0].runs} == {new.run_id, other.run_id}
    (note,) = grouping.notes
    assert "run again later" in note and old.run_id[:8] in note


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (recorded(status="FAILED"), "FAILED"),
        (recorded(status="KILLED"), "KILLED"),
        (recorded(status="RUNNING"), "still running, or killed without warning"),
        (recorded([0, 1, math.nan, 2]), "not all finite"),
        (recorded([0, 1, math.inf, 2]), "not all finite"),
        (recorded([5]), "without a learning curve"),
        (recorded([]), "without a learning curve"),
        (recorded([0, 1, 2], total_timesteps=9000), "evaluations are missing (3 of 10)"),
        (recorded([0, 500], total_timesteps=9000, evaluation__stop_when_solved="true"), "ended when solved"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_incomparable_runs_are_left_out_by_name_and_alone_are_an_error(run: RecordedRun, why: str) -> None:
    good = [recorded(seed=s) for s in (5, 6)]
    grouping = group_runs([*good, run], None)
    assert {each.run_id for group in grouping.groups for each in group.runs} == {each.run_id for each in good}
    (note,) = [note for note in grouping.notes if note.startswith("left out")]
    assert why in note and f"{run.name} ({run.run_id[:8]})" in note
    warned = any("looks better and more stable than it is" in note for note in grouping.notes)
    assert warned == (run.status == "FAILED" or "finite" in why)
    with pytest.raises(ConfigError, match="none can be compared") as caught:
        group_runs([run], None)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_limited_by_episodes_may_be_shorter() -> None:
    short = recorded([0, 1, 2], total_timesteps=9000, total_episodes=50)
    assert sizes([short, recorded([0, 1, 2, 3], seed=1, total_timesteps=9000, total_episodes=50)]) == {"all runs": 2}


def test_different_budgets_are_compared_over_the_shortest_with_a_note() -> None:
    short, long = recorded([0, 1, 2]), recorded([0, 1, 2, 3, 4], seed=1, algo__anneal_learning_rate="true")
    grouping = group_runs([short, long], ["total_timesteps"])
    assert list(grouping.grid) == [0, 1000, 2000]
    (note,) = grouping.notes
    assert "2,000, 4,000 steps" in note and "first 2,000" in note and "learning rates fall" in note
    assert list(cut_to(long, grouping.grid).curve.returns) == [0, 1, 2]
    steady = recorded([0, 1, 2, 3, 4], seed=1, algo__anneal_learning_rate="false")
    assert group_runs([short, steady], ["total_timesteps"]).notes == [
        "budgets differ (2,000, 4,000 steps): compared over the first 2,000."
    ]


def test_different_evaluation_grids_are_compared_at_their_common_steps() -> None:
    fine, coarse = recorded(range(9), every=500), recorded(range(5), every=1000, seed=1)
    grouping = group_runs([fine, coarse], None)
    assert list(grouping.grid) == [0, 1000, 2000, 3000, 4000]
    assert list(cut_to(fine, grouping.grid).curve.returns) == [0, 2, 4, 6, 8]
    with pytest.raises(ConfigError, match=r"^evaluation\.every: .*fewer than two steps in common"):
        group_runs([recorded(range(3), every=700), recorded(range(3), every=1000, seed=1)], None)


def test_different_environments_are_compared_only_if_asked_for() -> None:
    runs = [recorded(), recorded(seed=1, experiment="acrobot", env__id="Acrobot-v1")]
    with pytest.raises(
        ConfigError,
        match=r"^--env: the runs are of 2 environments.*--where env\.id=Acrobot-v1 \| --where env\.id=CartPole-v1$",
    ):
        group_runs(runs, None)
    windy = [recorded(), recorded(seed=1, **{"env__kwargs.wind": "5"})]
    with pytest.raises(ConfigError, match="2 environments"):
        group_runs(windy, None)
    assert sizes(windy, ["env.kwargs.wind"]) == {"env.kwargs.wind=5": 1, "env.kwargs.wind=–": 1}


def test_a_note_names_several_commits() -> None:
    runs = [recorded(seed=s, tags={"git.commit": commit * 40}) for s, commit in enumerate("aab")]
    assert group_runs(runs, None).notes == ["the runs come from 2 commits of the code: aaaaaaaa, bbbbbbbb."]


def test_runs_are_selected_by_environment_sweep_and_values() -> None:
    runs = [recorded(seed=s, net__layers=n, tags={"sweep": f"day-{n}"}) for s in range(2) for n in (1, 2, 3)]
    other = replace(recorded(experiment="lake", env__id="Lake-v1"), tags={"choice.env": "lake"})

    def chosen(**asked: object) -> int:
        return len(select([*runs, other], **{"env": None, "where": {}, "sweep": None, **asked}))  # type: ignore[arg-type]

    assert chosen() == 7 and chosen(env="cartpole") == chosen(env="CartPole-v1") == 6 and chosen(env="lake") == 1
    assert chosen(sweep="day-2") == 2 and chosen(where={"net.layers": ["1", "3"]}) == 4
    assert chosen(where={"net.layers": ["1", "3"], "seed": ["0"]}) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"env": "cartpol"}, "--env=cartpol: there are no such runs; did you mean cartpole?"),
        ({"sweep": "x"}, "--sweep=x: there are no such runs; there are day-1"),
        (
            {"where": {"net.layer": ["1"]}},
            "--where=net.layer: no run has such a param, group or tag; did you mean net.layers?",
        ),
        ({"where": {"net.layers": ["7"]}}, "--where net.layers=7: there are no such runs; there are 1"),
    ],
)
def test_an_empty_selection_lists_what_there_is(asked: dict[str, object], message: str) -> None:
    runs = [recorded(net__layers=1, tags={"sweep": "day-1"})]
    with pytest.raises(ConfigError) as caught:
        select(runs, **{"env": None, "where": {}, "sweep": None, **asked})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_of_many_params_the_nearest_or_ten_are_named() -> None:
    runs = [recorded(**{f"part__key{number:02}": number for number in range(30)})]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"did you mean part\.key17\?$"):
        check_key("--by", "part.key177", runs)
    with pytest.raises(ConfigError, match=r"there are .* … \(\d+ in all: python -m plexp --cfg job\)$") as caught:
        check_key("--by", "x", runs)
    assert str(caught.value).count(", ") == 10, "nine between ten names, and one in the cause"


def test_an_empty_store_and_an_unknown_key_to_group_by_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are no such runs; start one with"):
        select([], env="cartpole", where={}, sweep=None)
    with pytest.raises(ConfigError, match="none can be compared"):
        group_runs([], None)
    with pytest.raises(ConfigError, match=r"^--by=net\.depth: no run has such"):
        group_runs([recorded()], ["net.depth"])
