"""A policy as a model that MLflow loads without plexp and without pickle."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plexp.errors import ConfigError, Problem
from plexp.tracking.format import cause
from plexp.tracking.lookup import RunHandle
from plexp.tracking.store import LoggedModel, LoggedModelOutput, MlflowClient, MlflowException, Run

if TYPE_CHECKING:
    import torch


def save_model(policy: torch.nn.Module, example: torch.Tensor, folder: Path, run_id: str) -> None:
    """Export it there. policy: observations [B, *obs] -> one tensor, for any B; example: such observations.

    Raises whatever torch.export raises where it cannot trace the policy.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    import mlflow.pytorch  # calls logging.basicConfig(level=ERROR)

    root.handlers[:], root.level = handlers, level
    import numpy as np
    import torch
    from mlflow.models import Model, infer_signature

    policy = copy.deepcopy(policy).cpu().eval()
    batch = torch.cat([example, example])[:2].detach().cpu()  # of one, the batch size would be frozen
    with torch.no_grad():
        signature = infer_signature(batch.numpy(), policy(batch).numpy())
    mlflow.pytorch.save_model(
        policy,
        str(folder),
        mlflow_model=Model(run_id=run_id),
        signature=signature,
        input_example=batch.numpy(),
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
        serialization_format="pt2",
    )


def register_model(client: MlflowClient, run_id: str, folder: Path, *, unsure: bool) -> None:
    """Make the model saved there one of the run's. Not mlflow.pytorch.log_model: if it fails, it leaves a FAILED one behind.

    `unsure`: it may have been done already.
    """
    from mlflow.models import Model  # with pandas, which takes half a second

    run = client.get_run(run_id)
    if unsure and model_of(client, run) is not None:
        return
    record = Model.load(str(folder))
    model = client.create_logged_model(run.info.experiment_id, name="policy", source_run_id=run_id)
    try:
        record.model_id, record.model_uuid, record.artifact_path = model.model_id, model.model_id, model.model_uri
        record.save(str(folder / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(folder))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        client.delete_logged_model(model.model_id)
        raise


def model_of(client: MlflowClient, run: Run) -> LoggedModel | None:
    """Return the run's model, if it is complete, not left behind by a failure; else None."""
    for linked in run.outputs.model_outputs if run.outputs else []:
        with suppress(MlflowException):  # it was deleted
            model = client.get_logged_model(linked.model_id)
            if str(model.status) == "READY":
                return model
    return None


ALIAS = "best"
FINAL = "eval/final_return"


def register(run: RunHandle, name: str, policy: Callable[[], tuple[Any, Any]]) -> str:
    """Make the run's model a version of a registered model, with the alias, and return its number.

    `policy` returns the policy and examples, for a run without a model.

    Raises ConfigError for a name that MLflow refuses, and for a policy that cannot be traced.
    """
    model = model_of(run.client, run.run) or _logged(run, policy)
    try:
        _create(run.client, name)
        versions = run.client.search_model_versions(f"name = '{name}'")
        version = next((other.version for other in versions if other.run_id == run.run_id), None)
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


def refuse_worse(run: RunHandle, name: str) -> None:
    """Raise ConfigError where the alias is at a run with a higher final return than this one's."""
    try:
        other = run.client.get_run(str(run.client.get_model_version_by_alias(name, ALIAS).run_id))
    except MlflowException:  # there is none
        return
    if other.info.lifecycle_stage == "deleted":
        return
    theirs, ours = (metrics.get(FINAL, math.nan) for metrics in (other.data.metrics, run.metrics))
    if theirs > ours and other.info.run_id != run.run_id:
        why = f"its alias {ALIAS} is at {other.info.run_name} ({other.info.run_id[:8]}) with a final return of {theirs:.1f}"
        raise ConfigError(Problem("--register", name, f"{why}, and this one has {ours:.1f}", "give --force"))


def _logged(run: RunHandle, policy: Callable[[], tuple[Any, Any]]) -> Any:
    """Log the model of a run that was trained with tracker.log_model=false, and return it."""
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
