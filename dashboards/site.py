"""Our own app: API and pages under `/paretune`, and the whole server: it beside MLflow's, behind the gate."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from dashboards.answers import add_answers
from dashboards.api.routes import router as api
from dashboards.context import Context
from dashboards.gate import PREFIX, Gate
from dashboards.pages.assets import router as static
from dashboards.pages.routes import router as pages
from orchestrator.drivers import Drivers

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[object]]


def our_app(context: Context) -> FastAPI:
    """Return the app that stands under `/paretune`."""
    app = FastAPI(
        title="Paretune",
        description="Studies that search PEFT architectures: submit, follow, stop, read the front.",
        version="1",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    for router in (api, pages, static):
        app.include_router(router)
    add_answers(app)
    return app


def server(context: Context, mlflow: FastAPI | None = None, drivers: Drivers | None = None) -> ASGIApp:
    """Return the whole server: our app, MLflow's at the root where it is given, and the queue's worker.

    MLflow's app is mounted, since its catch-all would win over routes that were included in it; its lifespan is
    entered here, since mounted apps are not given theirs.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with _entered(mlflow):
            ended = threading.Event()
            worker = threading.Thread(target=drivers.run, args=(ended,), name="queue", daemon=True) if drivers else None
            if worker:
                worker.start()
            yield
            context.closing.set()
            ended.set()
            if worker:
                worker.join(timeout=10)

    routes = [Route(PREFIX, _to_the_page), Mount(PREFIX, our_app(context))]
    inner = Starlette(routes=[*routes, *([Mount("/", mlflow)] if mlflow else [])], lifespan=lifespan)
    return Gate(inner, context.settings.token, context.settings.hosts)


async def _to_the_page(_: object) -> RedirectResponse:
    return RedirectResponse(f"{PREFIX}/", 307)


@asynccontextmanager
async def _entered(app: FastAPI | None) -> AsyncIterator[None]:
    if app is None:
        yield
        return
    async with app.router.lifespan_context(app):
        yield
