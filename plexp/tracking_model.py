"""A policy as a model that MLflow loads without plexp and without pickle."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING

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
