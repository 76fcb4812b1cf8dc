"""The app that `mlflow server --app-name paretune` loads: MLflow's own, with ours in front of it.

MLflow has this door here and the recorder's; nothing else in this folder knows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp

from dashboards.context import Context, Settings
from dashboards.site import server
from orchestrator.drivers import Drivers
from orchestrator.projection import STUDY_KEY


def create_app() -> ASGIApp:
    """Return the whole server, with the settings of the environment (see `orchestrator.server.plan`).

    Raises:
        UnsupportedError: The token is too weak.
    """
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.server.fastapi_app import app as mlflow_app

    settings = Settings.read()
    context = Context.open(settings, _run_finder(settings.home.tracking_uri))
    drivers = Drivers(context.queue, at_once=settings.at_once)
    return server(context, mlflow_app, drivers)


def _run_finder(tracking_uri: str) -> Callable[[str], str | None]:
    """Return what finds the page of a study's run in MLflow, as the recorder names and tags it."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    found: dict[str, str] = {}

    def find(name: str) -> str | None:
        try:
            if name not in found and (run := _run_of(client, name)):
                found[name] = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        except MlflowException:
            return None
        return found.get(name)

    return find


def _run_of(client: Any, name: str) -> Any:
    experiment = client.get_experiment_by_name(f"paretune/{name}")
    if experiment is None:
        return None
    wanted = f"tags.`paretune.trial` = '{STUDY_KEY}'"
    return next(iter(client.search_runs([experiment.experiment_id], wanted, max_results=1)), None)
