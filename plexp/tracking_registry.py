"""MLflow's model registry: a run's model as a version of a registered model, under the alias `best`."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from plexp.errors import ConfigError, Problem
from plexp.tracking_model import model_of, register_model, save_model
from plexp.tracking_runs import KeptRun
from plexp.tracking_store import MlflowClient, MlflowException
from plexp.tracking_views import cause

ALIAS = "best"
FINAL = "eval/final_return"


def register(run: KeptRun, name: str, policy: Callable[[], tuple[Any, Any]]) -> str:
    """The version, with the alias, that the run's model is now. `policy`: the policy and examples, where it keeps no model.

    Raises ConfigError for a name that MLflow refuses, and for a policy that cannot be traced.
    """
    model = model_of(run.client, run.run) or _logged(run, policy)
    try:
        _create(run.client, name)
        found = run.client.search_model_versions(f"name = '{name}'")
        version = next((each.version for each in found if each.run_id == run.run_id), None)
        if version is None:
            source, key = model.artifact_location, model.model_id
            version = run.client.create_model_version(name, source, run.run_id, model_id=key).version
        run.client.set_registered_model_alias(name, ALIAS, version)
    except MlflowException as error:
        raise ConfigError(Problem("--register", name, cause(error), "choose another name")) from error
    return str(version)


def _create(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def refuse_worse(run: KeptRun, name: str) -> None:
    """Raise ConfigError where the alias is at a run with a higher final return than this one's."""
    try:
        other = run.client.get_run(str(run.client.get_model_version_by_alias(name, ALIAS).run_id))
    except MlflowException:  # there is none
        return
    theirs, ours = (metrics.get(FINAL, math.nan) for metrics in (other.data.metrics, run.metrics))
    if theirs > ours and other.info.run_id != run.run_id:
        why = f"its alias {ALIAS} is at {other.info.run_name} ({other.info.run_id[:8]}) with a final return of {theirs:.1f}"
        raise ConfigError(Problem("--register", name, f"{why}, and this one has {ours:.1f}", "give --force"))


def _logged(run: KeptRun, policy: Callable[[], tuple[Any, Any]]) -> Any:
    """The model of a run that was trained with tracker.log_model=false."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        try:
            with warnings.catch_warnings(), redirect_stderr(StringIO()):
                warnings.simplefilter("ignore")  # and torch.export prints the graph it fails at
                agent, example = policy()
                save_model(agent, example, folder, run.run_id)
        except (ConfigError, OSError):
            raise
        except Exception as error:
            remedy = "its network must be of tensor operations, without choices that depend on their values"
            raise ConfigError(Problem("--register", ..., f"no model can be made ({cause(error)})", remedy)) from error
        register_model(run.client, run.run_id, folder, unsure=False)
    return model_of(run.client, run.client.get_run(run.run_id))
