"""Tests of hyperparameter search: sampling, pruning, resuming and confirmation, on runs of a second."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from omegaconf import DictConfig, OmegaConf

optuna = pytest.importorskip("optuna", reason='pip install "plexp[optuna]"')

from optuna.distributions import FloatDistribution  # noqa: E402
from optuna.trial import TrialState, create_trial  # noqa: E402

from plexp.sweeps.pruning import STUDY, TrialJob, TrialPruner, quantile  # noqa: E402
from plexp.sweeps.search_report import verdict  # noqa: E402
from plexp.sweeps.trials import Search, mend  # noqa: E402
from plexp.tracking.format import sqlite_uri  # noqa: E402
from tests.integration.cli.test_cli import QUICK, Main, main  # noqa: E402
from tests.support.processes import finish, runs, start, wait_for  # noqa: E402

__all__ = ["main"]
SETTINGS: dict[str, Any] = {
    "n_trials": 6,
    "seeds_per_trial": 2,
    "trials_at_once": 3,
    "confirmation_seeds": 2,
    "direction": "maximize",
    "sampler_seed": 0,
    "startup_trials": 3,
    "prune_below": 0.5,
    "prune_warmup": 0.25,
    "prune_after_trials": 2,
}
SMALL = ("hydra/launcher=basic", "compile=false", *QUICK)


def sized(**changes: Any) -> list[str]:
    """Return the sweeper's settings as overrides."""
    return [
        f"hydra.sweeper.{key}={'null' if value is None else value}" for key, value in {**SETTINGS, **changes}.items()
    ]


def found(outputs: Path) -> dict[str, Any]:
    (file,) = outputs.glob("sweeps/*/search.json")
    facts: dict[str, Any] = json.loads(file.read_text())
    return facts


def test_a_trial_is_a_mean_over_seeds_and_the_best_is_confirmed_on_fresh_ones(main: Main, tmp_path: Path) -> None:
    ranges = ("algo.learning_rate=tag(log, interval(1e-4, 1e-1))", "net.width=choice(16,64)")
    command = ("-m", "hydra/sweeper=optuna", *SMALL, *ranges, *sized(prune_below=None), "seed=5")
    status, lines = main(*command)
    assert status == 0
    facts, recorded = found(tmp_path), runs(tmp_path)
    by_trial = {
        number: [run for run in recorded if run["tags"].get("search.trial") == str(number)] for number in range(6)
    }
    for trial in facts["trials"]:
        mine = [run for run in by_trial[trial["number"]] if run["tags"]["search.role"] == "trial"]
        assert sorted(run["params"]["seed"] for run in mine) == ["5", "6"] == [str(seed) for seed in facts["seeds"]]
        returns = [run["metrics"]["eval/final_return"][-1][1] for run in mine]
        assert trial["value"] == pytest.approx(statistics.fmean(returns)) and trial["status"] == "FINISHED"
        assert {run["params"]["net.width"] for run in mine} == {trial["params"]["net.width"]}
        assert {float(run["params"]["algo.learning_rate"]) for run in mine} == {trial["params"]["algo.learning_rate"]}
    assert len({json.dumps(trial["params"]) for trial in facts["trials"]}) == 6
    assert facts["trials"][0]["params"] == {"algo.learning_rate": 0.001, "net.width": "64"}, "untuned"
    best = max(facts["trials"], key=lambda trial: trial["value"])["number"]
    roles = {
        role: [run for run in recorded if run["tags"]["search.role"] == role] for role in ("confirmation", "baseline")
    }
    assert facts["best"] == best and {run["tags"]["search.trial"] for run in roles["confirmation"]} <= {str(best)}
    for role, those in roles.items():
        if role in facts["confirmation"]:
            assert sorted(run["params"]["seed"] for run in those) == ["7", "8"]
            returns = [run["metrics"]["eval/final_return"][-1][1] for run in those]
            assert sorted(facts["confirmation"][role]) == pytest.approx(sorted(returns))
    assert lines[-2].startswith(f"best trial {best}: ") and "on 2 fresh seeds" in lines[-2]
    assert lines[-1] == facts["command"] and "seed=" not in lines[-1].replace("seeds", "")

    assert main(*command)[0] == 0
    assert len(runs(tmp_path)) == len(recorded) and found(tmp_path) == facts, "the same command again does nothing"
    status, lines = main("status", "--outputs", str(tmp_path))
    assert status == 0 and any(line.startswith(f"best trial {best}: ") for line in lines)


@pytest.mark.slow
def test_a_pruned_run_stops_early_is_marked_everywhere_and_is_never_resumed(main: Main, tmp_path: Path) -> None:
    hard = sized(n_trials=5, trials_at_once=1, prune_below=1.0, prune_warmup=0.0, prune_after_trials=1)
    command = ("-m", "hydra/sweeper=optuna", "algo.learning_rate=tag(log, interval(1e-9, 1e-1))", *SMALL, *hard)
    long = ("total_timesteps=640", "evaluation.every=64", "evaluation.episodes=1")
    status, lines = main(*command, *long)
    assert status == 0
    facts, recorded = found(tmp_path), runs(tmp_path)
    pruned = [run for run in recorded if "pruned" in run["tags"]]
    assert pruned and {run["status"] for run in pruned} == {"KILLED"}
    for run in pruned:
        steps = max(step for step, _ in run["metrics"]["eval/return"])
        assert steps < 640 and "eval/final_return" not in run["metrics"]
        assert run["tags"]["pruned"].startswith(f"at step {steps:,}: ") or "was pruned" in run["tags"]["pruned"]
        assert (run["folder"] / "episodes.csv").read_text().startswith("steps,return,length")
    whole = [run for run in recorded if run["status"] == "FINISHED" and run["tags"]["search.role"] == "trial"]
    taken = sum(640 for _ in whole) + sum(json.loads(f.read_text()).get("steps", 0) for f in killed(tmp_path))
    assert facts["steps"] == {"planned": 5 * 2 * 640, "taken": taken} and taken < 5 * 2 * 640
    pruned_trials = [trial["number"] for trial in facts["trials"] if trial["status"] == "PRUNED"]
    assert all((trial["value"] is None) == (trial["status"] == "PRUNED") for trial in facts["trials"])
    assert pruned_trials and {run["tags"]["search.trial"] for run in pruned} <= {
        str(number) for number in pruned_trials
    }
    assert any(f"{len(pruned_trials)} pruned; pruning saved" in line for line in lines)

    (tmp_path / "sweeps" / next(iter((tmp_path / "sweeps").iterdir())).name / "search.json").unlink()
    assert main(*command, *long)[0] == 0
    assert len(runs(tmp_path)) == len(recorded) and found(tmp_path) == facts
    _, lines = main("compare", "--outputs", str(tmp_path), "--by", "search.role")
    assert any("left out, pruned by a search: ppo-mlp" in line for line in lines), lines
    overrides = [each for each in json.loads(killed(tmp_path)[0].read_text())["overrides"]]
    assert main(*[each for each in overrides if not each.startswith("outputs=")])[0] == 0, (
        "outside the search it is a new run"
    )
    assert len([run for run in runs(tmp_path) if run["tags"]["kind"] == "training"]) == len(recorded) + 1


def killed(outputs: Path) -> list[Path]:
    files = sorted(outputs.glob("sweeps/*/*/result.json"))
    return [file for file in files if json.loads(file.read_text())["status"] == "PRUNED"]


@pytest.mark.slow
def test_a_failed_job_fails_its_trial_with_the_reason_and_the_search_continues(main: Main, tmp_path: Path) -> None:
    ranges = (
        "algo.num_steps=choice(16,24)",
        "algo.num_minibatches=choice(2,32)",
    )  # 24 · 2 rows do not fill 32 minibatches
    status, lines = main("-m", "hydra/sweeper=optuna", *SMALL, *ranges, *sized(n_trials=9, prune_below=None))
    facts = found(tmp_path)
    failed = [trial for trial in facts["trials"] if trial["status"] == "FAILED"]
    assert status == 1 and len(facts["trials"]) == 9
    assert failed and all(list(trial["params"].values()) == ["24", "32"] for trial in failed)
    assert all("the rollout has 24 steps x 2 environments" in trial["why"] for trial in failed)
    assert any(line.startswith(f"trial {failed[0]['number']} failed: algo.num_minibatches=32: ") for line in lines)
    jobs = [run for run in runs(tmp_path) if run["tags"]["search.role"] == "trial"]
    assert len(jobs) == 3 * 2, "of 9 trials at 4 points each point runs once"
    for trial in facts["trials"]:
        twin = next(each for each in facts["trials"] if each["params"] == trial["params"])
        assert (trial["status"], trial["value"]) == (twin["status"], twin["value"])


def test_a_search_does_again_the_runs_that_others_removed(main: Main, tmp_path: Path) -> None:
    command = ("-m", "hydra/sweeper=optuna", "algo.learning_rate=choice(0.001,0.01)", *SMALL)
    command = (*command, *sized(n_trials=4, trials_at_once=2, prune_below=None))
    assert main(*command)[0] == 0
    facts, recorded = found(tmp_path), runs(tmp_path)
    client = MlflowClient(sqlite_uri(tmp_path / "mlflow.db"))
    removed = [
        next(run for run in recorded if run["tags"]["search.role"] == role)
        for role in ("trial", "confirmation", "baseline")
    ]
    for run in removed:
        client.delete_run(run["id"])
    status, lines = main(*command)
    assert status == 0 and sum(line.endswith("it is done again, in a new run") for line in lines) == len(removed)
    assert found(tmp_path) == facts, "the outcomes stand"
    again = runs(tmp_path)[len(recorded) :]
    key = [(run["params"]["seed"], run["params"]["algo.learning_rate"], run["status"]) for run in removed]
    assert sorted((r["params"]["seed"], r["params"]["algo.learning_rate"], r["status"]) for r in again) == sorted(key)
    assert main(*command)[0] == 0 and len(runs(tmp_path)) == len(recorded) + len(removed)


def test_a_threshold_that_is_never_reached_counts_as_the_budget(main: Main, tmp_path: Path) -> None:
    goal = ("objective=speed/steps_to_threshold", "algo.learning_rate=choice(0.001,0.01)")
    status, _ = main("-m", "hydra/sweeper=optuna", *goal, *SMALL, *sized(n_trials=2, direction="minimize"))
    facts = found(tmp_path)
    assert status == 0 and {trial["value"] for trial in facts["trials"]} == {64.0}
    assert facts["confirmation"]["confirmation"] == [64.0, 64.0]


@pytest.mark.faults
def test_a_search_that_is_sigkilled_ends_like_one_that_was_not(tmp_path: Path) -> None:
    command = [
        *(
            "-m",
            "hydra/sweeper=optuna",
            "algo.learning_rate=tag(log,interval(1e-5,1e-1))",
            "algo.clip_eps=interval(0.1,0.4)",
        ),
        *(*SMALL, "total_timesteps=800", "evaluation.every=100", "checkpoint.every=100"),
        *sized(n_trials=6, trials_at_once=3, prune_after_trials=3),
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert finish([*command, f"outputs={whole}"])[0] == 0
    for number in (2, 8):
        process = start([*command, f"outputs={killed}"], stderr=subprocess.DEVNULL)
        wait_for(lambda least=number: len(ended(killed)) > least)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(killed.glob("sweeps/*/search.json")) or not found(killed)["is_done"]
    status, errors = finish([*command, f"outputs={killed}"])
    assert status == 0, errors
    ours, theirs = found(killed), found(whole)
    for each in (ours, theirs):
        each["command"] = each["command"].replace(str(killed), "").replace(str(whole), "")
    assert ours == theirs and len(ours["trials"]) == 6
    assert len(list(killed.glob("sweeps/*"))) == 1
    points = [
        (run["params"]["algo.learning_rate"], run["params"]["algo.clip_eps"], run["params"]["seed"])
        for run in runs(killed)
    ]
    assert len(points) == len(set(points)), "nothing was computed twice"


def ended(outputs: Path) -> list[Path]:
    return [f for f in outputs.glob("state/*/run.json") if '"status": "RUNNING"' not in f.read_text()]


@pytest.mark.slow
def test_a_search_finds_a_learning_rate_that_learns(tmp_path: Path) -> None:
    """Check that the best learning rate found is above 1e-4, and its return more than twice that of the worst."""
    command = [
        *("-m", "hydra/sweeper=optuna", "algo.learning_rate=tag(log,interval(1e-9,1e-2))", "compile=false"),
        *("total_timesteps=8000", "evaluation.every=2000", "evaluation.episodes=5", "evaluation.final_episodes=20"),
        *(
            "tracker.log_model=false",
            f"outputs={tmp_path}",
            *sized(n_trials=8, trials_at_once=4, seeds_per_trial=1, prune_below=None),
        ),
    ]
    assert finish([*command, "algo.update_epochs=4"])[0] == 0
    facts = found(tmp_path)
    values = {trial["params"]["algo.learning_rate"]: trial["value"] for trial in facts["trials"]}
    best = facts["trials"][facts["best"]]
    assert best["params"]["algo.learning_rate"] > 1e-4 and best["value"] > 2 * min(values.values())


WRONG = {
    ("search=ppo",): "search=ppo: a search is a sweep; add -m",
    ("-m", "search=pp"): "search=pp: there is no such option; did you mean ppo?",
    (
        "-m",
        "algo.learning_rate=interval(1e-4,1e-2)",
    ): "algo.learning_rate=interval(1e-4,1e-2): an interval is searched, ",
    ("-m", "hydra/sweeper=optuna"): "hydra/sweeper=optuna: there is no range to search; ",
    (
        "-m",
        "hydra/sweeper=optuna",
        "algo.learning_rat=interval(1,2)",
    ): "algo.learning_rat: there is no such key; did you ",
    ("-m", "hydra/sweeper=optuna", "algo.clip_eps=interval(0.1,1.5)"): "algo.clip_eps=1.5: must be less than 1; ",
    (
        "-m",
        "hydra/sweeper=optuna",
        "algo.clip_eps=interval(0.5,0.1)",
    ): "algo.clip_eps=interval(0.5,0.1): this is no range ",
    (
        "-m",
        "hydra/sweeper=optuna",
        "algo.clip_eps=tag(log,interval(0,0.1))",
    ): "algo.clip_eps=tag(log,interval(0,0.1)): ",
    (
        "-m",
        "hydra/sweeper=optuna",
        "algo.update_epochs=interval(1.5,3)",
    ): "algo.update_epochs=1.5: must be a valid integer",
    ("-m", "hydra/sweeper=optuna", "algo.update_epochs=range(5,5)"): "algo.update_epochs=range(5,5): this is no range ",
    ("-m", "hydra/sweeper=optuna", "net.activation=choice(relu,rely)"): "net.activation=rely: must be ",
    ("-m", "search=ppo", "seed=range(3)"): "seed=range(3): a search gives its jobs their seeds itself; ",
    ("-m", "search=ppo", "algo=reinforce"): "algo.clip_eps: algo=reinforce has no such parameter; ",
    ("-m", "search=ppo", "hydra.sweeper.n_trials=0"): "hydra.sweeper.n_trials=0: must be greater than 0; ",
    (
        "-m",
        "search=ppo",
        "hydra.sweeper.n_trial=3",
    ): "hydra.sweeper.n_trial: there is no such key; did you mean n_trials?",
    ("-m", "search=ppo", "+hydra.sweeper.params.algo.x=7"): "algo={'x': 7}: this is not a range; ",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_an_invalid_search_is_refused_in_one_line_before_anything_runs(
    arguments: tuple[str, ...], main: Main, tmp_path: Path
) -> None:
    status, lines = main(*arguments)
    assert status == 2 and len(lines) == 1 and lines[0].startswith(WRONG[arguments]), lines
    assert not list(tmp_path.glob("sweeps/*")) and not (tmp_path / "mlflow.db").exists()


def test_without_optuna_the_error_names_the_extra(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plexp.sweeps.optuna_sweeper.find_spec", lambda name: None)
    status, lines = main("-m", "search=ppo")
    assert status == 2
    assert lines == ['hydra/sweeper=optuna: the package optuna is missing; pip install "plexp[optuna]"']
    assert not list(tmp_path.glob("sweeps/*"))


def test_the_command_line_overrides_the_ranges_of_the_config(main: Main, tmp_path: Path) -> None:
    fixed = ("algo.clip_eps=0.3", "algo.num_steps=16", "algo.update_epochs=1", "algo.ent_coef=0.01")
    rest = [each for each in QUICK if not each.startswith("algo.")]
    command = ("-m", "search=ppo", "algo.learning_rate=interval(0.5,0.6)", "algo.num_minibatches=2", *fixed, *rest)
    settings = sized(n_trials=2, confirmation_seeds=0, seeds_per_trial=1)
    assert main(*command, "hydra/launcher=basic", "compile=false", *settings)[0] == 0
    facts = found(tmp_path)
    for trial in facts["trials"]:
        assert list(trial["params"]) == ["algo.learning_rate", "advantage.gae_lambda"]
        assert 0.5 <= trial["params"]["algo.learning_rate"] <= 0.6
    assert {run["params"]["algo.clip_eps"] for run in runs(tmp_path)} == {"0.3"}


SEARCH_CONFIGS = sorted(file.stem for file in (Path(__file__).parents[3] / "conf" / "search").glob("*.yaml"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "ppo" else pytest.mark.slow) for name in SEARCH_CONFIGS]
)
def test_every_search_config_composes_and_contains_the_untuned_configuration(
    name: str, main: Main, compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose and build the configurations at both ends of each range, without running a job."""
    monkeypatch.setattr("plexp.sweeps.optuna_sweeper.OptunaSweeper._run", lambda self, search, batch: stop(batch))
    algo, env = name if name != "net" else "ppo", "pendulum" if name in ("sac", "td3") else "cartpole"
    with pytest.raises(RuntimeError, match="sampled"):
        main("-m", f"search={name}", f"algo={algo}", f"env={env}", "hydra.sweeper.trials_at_once=1")
    usual = compose(f"algo={algo}", f"env={env}")
    (first,) = sampled
    assert len(first) > 3 and {key: str(OmegaConf.select(usual, key)).lower() for key in first} == {
        key: str(value).lower() for key, value in first.items()
    }


sampled: list[dict[str, Any]] = []


def stop(batch: Any) -> None:
    sampled[:] = [trial.params for trial in batch]
    raise RuntimeError("sampled")


def test_a_seed_is_pruned_exactly_where_optunas_median_pruner_prunes_it(tmp_path: Path) -> None:
    """Compare the two with one seed a trial, where their rules are the same, on noise, so that both answers occur."""
    rng = np.random.default_rng(0)
    space = {"x": FloatDistribution(0, 1)}
    settings = {**SETTINGS, "seeds_per_trial": 1, "prune_after_trials": 4, "prune_warmup": 0.0}
    search = Search(tmp_path, settings, space, None)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0, n_min_trials=4)
    for _ in range(5):
        curve = {step: float(value) for step, value in enumerate(rng.normal(size=10))}
        done = create_trial(params={"x": 0.5}, distributions=space, value=1.0, intermediate_values=curve)
        search.study.add_trial(done)
    decisions = []
    for number in range(5, 45):
        search.study.add_trial(create_trial(state=TrialState.RUNNING, params={"x": 0.1}, distributions=space))
        our_pruner = TrialPruner(TrialJob(tmp_path, number, 0, "trial", settings))
        curve = [(100 * step, float(value)) for step, value in enumerate(rng.normal(-0.5, size=9))]
        for length in range(1, len(curve) + 1):
            ours = our_pruner(curve[:length], length / 10)
            theirs = pruner.prune(search.study, search.study.trials[number])
            assert (ours is not None) == theirs
            decisions.append(theirs)
            if ours:
                step = curve[length - 1][0]
                assert our_pruner.pruned() == f"trial {number} was pruned: seed 0, step {step:,}: {ours}"
                break
    assert 5 < sum(decisions) < len(decisions) - 5


def test_one_seed_prunes_the_trial_for_its_other_seeds(tmp_path: Path) -> None:
    space = {"x": FloatDistribution(0, 1)}
    search = Search(tmp_path, SETTINGS, space, None)
    for value in (10.0, 12.0):
        curve = {evaluation * 2 + seed: value + 100 * seed for evaluation in range(4) for seed in range(2)}
        done = create_trial(params={"x": 0.5}, distributions=space, value=1.0, intermediate_values=curve)
        search.study.add_trial(done)
    search.study.add_trial(create_trial(state=TrialState.RUNNING, params={"x": 0.1}, distributions=space))
    pruners = [TrialPruner(TrialJob(tmp_path, 2, seed, "trial", SETTINGS)) for seed in range(2)]
    assert pruners[1]([(0, 50.0)], 0.0) is None and pruners[0]([(0, 10.0)], 0.0) is None, "before the warm-up"
    assert pruners[0]([(0, 10.0), (5, 11.5)], 0.3) is None, "its own seed's median is 11, the other's is 111"
    why = pruners[1]([(0, 50.0), (5, 60.0)], 0.3)
    assert why == "its best evaluation, 60, is below the median, 111, of 2 trials on this seed"
    assert "seed 1, step 5" in str(pruners[0]([(0, 10.0), (5, 11.5), (9, 20.0)], 0.5))
    assert pruners[0]([(0, 10.0), (5, 11.5), (9, 20.0), (20, 20.0)], 1.0) is None, "at the end nothing is left to save"
    search.tell(search.study.trials[2], [None, None], "")
    assert search.study.trials[2].state == TrialState.PRUNED
    search.study.add_trial(create_trial(state=TrialState.RUNNING, params={"x": 0.1}, distributions=space))
    twin = search.twin(search.study.trials[3])
    assert twin is not None and twin.number == 2
    search.tell_as(search.study.trials[3], twin)
    assert search.study.trials[3].state == TrialState.PRUNED
    assert search.study.trials[3].user_attrs == search.study.trials[2].user_attrs
    assert search.study.trials[2].intermediate_values == {0: 10.0, 1: 50.0, 2: 11.5, 3: 60.0, 4: 20.0, 6: 20.0}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_quantiles_equal_those_of_numpy(share: float) -> None:
    for number in range(1, 8):
        values = np.random.default_rng(number).normal(size=number).tolist()
        assert quantile(values, share) == pytest.approx(np.quantile(values, share))
    assert quantile([math.nan, 1.0], 0.5) == -math.inf


def test_a_restarted_search_samples_what_it_would_have_sampled(tmp_path: Path) -> None:
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-5, 1, log=True)}

    def play(folder: Path, again: Callable[[Search], Search]) -> list[dict[str, Any]]:
        search = Search(folder, {**SETTINGS, "n_trials": 12}, space, {"x": 0.5, "y": 0.1})
        while batch := search.batch():
            search = again(search)
            for trial in batch:
                search.tell(trial, [-(trial.params["x"] ** 2)] * 2, "")
        return [trial.params for trial in search.study.trials]

    def restarted(search: Search) -> Search:
        with (tmp_path / "b" / STUDY).open("ab") as file:
            file.write(b'{"op_code": 4, "wor')  # as after a power cut
        return Search(tmp_path / "b", search.settings, space, search.first)

    whole = play(tmp_path / "a", lambda search: search)
    assert play(tmp_path / "b", restarted) == whole and len(whole) == 12
    assert whole[0] == {"x": 0.5, "y": 0.1} and len({each["x"] for each in whole}) == 12
    assert all(len(f"{each['x']:.4g}") >= len(str(each["x"])) or each["x"] < 1e-3 for each in whole)


@pytest.mark.parametrize(("total", "size"), [(1, 3), (2, 3), (3, 3), (4, 3), (7, 2)])
def test_a_search_ends_even_if_its_last_batch_is_not_full(total: int, size: int, tmp_path: Path) -> None:
    settings = {**SETTINGS, "n_trials": total, "trials_at_once": size, "startup_trials": 100}
    search, batches = Search(tmp_path, settings, {"x": FloatDistribution(0, 1)}, None), []
    while batch := search.batch():
        batches.append([trial.number for trial in batch])
        assert len(batches) <= total
        for trial in batch:
            search.tell(trial, [1.0, 2.0], "")
    assert [number for batch in batches for number in batch] == list(range(total))
    assert all(len(batch) == size for batch in batches[:-1]) and search.study.trials[-1].value == 1.5


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / STUDY
    mend(file)
    for text, expected in ((b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"b", b"")):
        file.write_bytes(text)
        mend(file)
        assert file.read_bytes() == expected


def test_the_verdict_is_a_test_on_the_fresh_seeds_alone() -> None:
    from scipy.stats import ttest_ind

    high, low = [10.0, 11.0, 12.0, 13.0, 14.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    better = verdict({"confirmation": high, "baseline": low}, "maximize")
    assert better["verdict"] == "better" and better["p"] == pytest.approx(ttest_ind(high, low, equal_var=False).pvalue)
    assert better["difference"][0] == 9.0 and better["confirmation_mean"][0] == 12.0
    assert verdict({"confirmation": low, "baseline": high}, "maximize")["verdict"] == "worse"
    assert verdict({"confirmation": low, "baseline": high}, "minimize")["verdict"] == "better"
    assert verdict({"confirmation": low, "baseline": low}, "minimize")["verdict"] == "not distinguishable"
    assert verdict({"confirmation": [*high[:4], None], "baseline": low}, "maximize")["verdict"].startswith("no verdict")
    assert verdict({"confirmation": [math.inf], "baseline": [None]}, "minimize")["verdict"].startswith("no verdict")
    assert verdict({"confirmation": high}, "maximize")["verdict"] == "it is the untuned configuration"
