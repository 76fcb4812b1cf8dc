"""Routes of the API. Each reads, or asks the queue; none holds state of its own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dashboards.api.events import changes
from dashboards.api.shapes import ErrorAnswer, FrontShape, StudyDetail, StudyList, StudySummary, TrialList, TrialShape
from dashboards.context import Context, Here
from dashboards.submissions import JSON_TYPES, YAML_TYPES, read_study
from orchestrator.trial import PHASES, Phase

Key = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="the same key with the same study is the same submission, however often it is sent",
    ),
]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=2**31)]
Match = Annotated[str | None, Header(max_length=200)]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "a study file",
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
        },
    }
}


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorAnswer} for code in (401, 403, *codes)}


router = APIRouter(prefix="/api/v1", tags=["studies"])


@router.post(
    "/studies",
    status_code=201,
    responses=_errors(409, 413, 415, 422) | {200: {"model": StudyDetail, "description": "it was there already"}},
    openapi_extra=_BODY,
)
async def submit(request: Request, response: Response, context: Here, idempotency_key: Key = None) -> StudyDetail:
    """Submit a study. It is queued, and runs when its turn comes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (*YAML_TYPES, *JSON_TYPES):
        raise HTTPException(415, "send a study as application/yaml or application/json")
    body = await request.body()
    spec = await run_in_threadpool(read_study, body, kind, context.settings)
    _, created = await run_in_threadpool(context.queue.submit, spec, idempotency_key)
    context.reports.forget(spec.name)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/api/v1/studies/{spec.name}"
    return await run_in_threadpool(_detail, context, spec.name)


@router.get("/studies", responses=_errors(422))
def studies(context: Here, limit: Limit = 50, offset: Offset = 0) -> StudyList:
    """List the studies, the newest first."""
    names = context.reports.names()
    chosen = [StudySummary.of(context.reports.of(name)) for name in names[offset : offset + limit]]
    return StudyList(studies=chosen, total=len(names))


@router.get("/studies/{name}", responses=_errors(404, 422))
def study(name: str, context: Here) -> StudyDetail:
    """Show a study with its spec and its place in the queue."""
    return _detail(context, name)


@router.get("/studies/{name}/trials", responses=_errors(404, 422) | {304: {"description": "nothing changed"}})
def trials(
    name: str,
    context: Here,
    response: Response,
    phase: Phase | None = None,
    limit: Limit = 1000,
    offset: Offset = 0,
    if_none_match: Match = None,
) -> TrialList:
    """List the trials of a study: of the search, the references and the finalists."""
    report = context.reports.of(name)
    _check_changed(report.version, if_none_match, response)
    chosen = [one for each in ([phase] if phase else PHASES) for one in report.trials[each]]
    shown = [TrialShape.of(one, report.front) for one in chosen[offset : offset + limit]]
    return TrialList(study=name, version=report.version, trials=shown, total=len(chosen))


@router.get("/studies/{name}/front", responses=_errors(404, 422) | {304: {"description": "nothing changed"}})
def front(name: str, context: Here, response: Response, if_none_match: Match = None) -> FrontShape:
    """Show the front of a study as it is now: its members, the pick with its reason, and finalists with intervals."""
    report = context.reports.of(name)
    _check_changed(report.version, if_none_match, response)
    return FrontShape.of(report)


@router.post("/studies/{name}/stop", responses=_errors(404, 422))
def stop(name: str, context: Here) -> StudyDetail:
    """Ask a study to stop. Its driver ends well, or is ended; submit it again to continue it."""
    context.settings.home.study(name)
    context.queue.stop(name)
    context.reports.forget(name)
    return _detail(context, name)


@router.post("/studies/{name}/resume", responses=_errors(404, 409, 422))
def resume(name: str, context: Here) -> StudyDetail:
    """Queue a study again that failed, was stopped or was interrupted. It continues where it was."""
    context.settings.home.study(name)
    context.queue.resume(name)
    context.reports.forget(name)
    return _detail(context, name)


@router.get(
    "/studies/{name}/events",
    response_class=StreamingResponse,
    responses=_errors(404, 422, 503) | {200: {"content": {"text/event-stream": {}}}},
)
async def events(name: str, context: Here, last_event_id: Match = None) -> StreamingResponse:
    """Follow a study: an event named change whenever its version changes. Ends now and then; connect again."""
    return await changes(context, name, last_event_id)


def _detail(context: Context, name: str) -> StudyDetail:
    return StudyDetail.of_report(context.reports.of(name), context.mlflow_url(name))


def _check_changed(version: str, known: str | None, response: Response) -> None:
    """Answer 304 to whom knows this version already."""
    tag = f'"{version}"'
    if known == tag:
        raise HTTPException(304, headers={"ETag": tag})
    response.headers["ETag"] = tag
