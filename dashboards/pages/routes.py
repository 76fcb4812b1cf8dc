"""Routes of the pages. Forms are plain: each works without scripts and is answered with a page or a redirection."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dashboards.api.shapes import StudyDetail, StudySummary
from dashboards.context import Context, Here
from dashboards.pages.described import described
from dashboards.pages.rendering import EXAMPLE, page
from dashboards.pages.views import FinalistsView, PickView, PredictorRow
from dashboards.submissions import read_study
from dashboards.tokens import set_cookie
from search_space.errors import Problem, SpecError, StudyExistsError, StudyLockedError

SHOWN = 100
_MOST_FIELDS = 10
router = APIRouter(include_in_schema=False)


@router.get("/")
def studies(request: Request, context: Here) -> Response:
    """Show the studies, and the form for a new one."""
    return _studies(request, context)


@router.post("/studies")
async def submit(request: Request, context: Here) -> Response:
    """Take a study from the form, or show it again with every problem."""
    text = (await _form(request)).get("study", "")
    try:
        spec = await run_in_threadpool(read_study, text.encode(), "", context.settings)
        await run_in_threadpool(context.queue.submit, spec)
    except SpecError as error:
        return await run_in_threadpool(_studies, request, context, text, error.problems)
    except (StudyExistsError, StudyLockedError) as error:
        return await run_in_threadpool(_studies, request, context, text, [Problem("name", str(error))])
    context.reports.forget(spec.name)
    return _to(request, f"/studies/{spec.name}")


@router.get("/studies/{name}")
def study(name: str, request: Request, context: Here) -> Response:
    """Show a study: its chart and its table, filled and kept up to date by a script."""
    report = context.reports.of(name)
    return page(
        request,
        "study.html",
        study=StudyDetail.of_report(report, context.mlflow_url(name)),
        limits=report.front.limits if report.front else {},
        pick=PickView.of(report),
        finalists=FinalistsView.of(report),
        predictors=PredictorRow.all_of(report),
    )


@router.post("/studies/{name}/stop")
def stop(name: str, request: Request, context: Here) -> Response:
    """Stop a study, from its page."""
    context.settings.home.study(name)
    context.queue.stop(name)
    context.reports.forget(name)
    return _to(request, f"/studies/{name}")


@router.post("/studies/{name}/resume")
def resume(name: str, request: Request, context: Here) -> Response:
    """Continue a study, from its page."""
    context.settings.home.study(name)
    context.queue.resume(name)
    context.reports.forget(name)
    return _to(request, f"/studies/{name}")


@router.get("/login")
def login(request: Request, context: Here, next: str = "") -> Response:  # noqa: A002  (a query parameter's name)
    """Show the login form."""
    if context.settings.token is None:
        return _to(request, "/")
    return page(request, "login.html", next=_safe(request, next), wrong=False)


@router.post("/login")
async def log_in(request: Request, context: Here) -> Response:
    """Give a browser a session for the right token."""
    token, form = context.settings.token, await _form(request)
    target = _safe(request, form.get("next", ""))
    if token is None:
        return _to(request, "/")
    if not token.is_right(form.get("token", "").strip()):
        return page(request, "login.html", 401, next=target, wrong=True)
    response = RedirectResponse(target, 303)
    response.headers["Set-Cookie"] = set_cookie(token.session(), secure=request.url.scheme == "https")
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """Take the session away."""
    response = _to(request, "/login")
    response.headers["Set-Cookie"] = set_cookie("", secure=request.url.scheme == "https")
    return response


@router.get("/api/v1/docs")
def docs(request: Request) -> Response:
    """Describe the API."""
    return page(request, "docs.html", operations=described(request.app.openapi()))


def _studies(request: Request, context: Context, text: str = "", problems: Sequence[Problem] = ()) -> Response:
    names = context.reports.names()
    shown = [StudySummary.of(context.reports.of(name)) for name in names[:SHOWN]]
    status = 422 if problems else 200
    values = {"studies": shown, "total": len(names), "text": text or EXAMPLE, "problems": problems}
    return page(request, "studies.html", status, **values)


async def _form(request: Request) -> dict[str, str]:
    """Read a form as browsers send it by default. The gate has bounded its size."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "send the form as application/x-www-form-urlencoded")
    try:
        text = (await request.body()).decode("utf-8")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError:
        raise HTTPException(400, "the form cannot be read") from None


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{path}", 303)


def _safe(request: Request, target: str) -> str:
    """Return where to go after the login: a path of this server and nothing else."""
    bad = not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable() or "\\" in target
    return f"{request.scope.get('root_path', '')}/" if bad else target
