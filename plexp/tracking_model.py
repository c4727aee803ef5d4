"""A policy as a model that MLflow loads without plexp and without pickle."""

from __future__ import annotations

import copy
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from plexp.tracking_store import LoggedModel, LoggedModelOutput, MlflowClient, MlflowException, Run

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
    """The run's model: a whole one, not one that a failure left behind."""
    for linked in run.outputs.model_outputs if run.outputs else []:
        with suppress(MlflowException):  # it was deleted
            model = client.get_logged_model(linked.model_id)
            if str(model.status) == "READY":
                return model
    return None
