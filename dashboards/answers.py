"""Every error as a clear answer: JSON under the API, a page elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dashboards.api.shapes import ErrorAnswer, ErrorShape, ProblemShape
from dashboards.gate import Refused
from dashboards.pages.rendering import page
from search_space.errors import (
    ParetuneError,
    Problem,
    SpecError,
    StudyExistsError,
    StudyLockedError,
    StudyNotFoundError,
)

_LOG = logging.getLogger("paretune.server")
_STATUS: tuple[tuple[type[ParetuneError], int], ...] = (
    (SpecError, 422),
    (StudyNotFoundError, 404),
    (StudyExistsError, 409),
    (StudyLockedError, 409),
    (ParetuneError, 400),
)


def add_answers(app: FastAPI) -> None:
    """Make an app answer every error."""
    app.add_exception_handler(ParetuneError, _ours)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def answer(request: Request, status: int, message: str, problems: Sequence[Problem] = ()) -> Response:
    """Return an error in the form that its reader expects."""
    root = request.scope.get("root_path", "")
    if not request.url.path.startswith(f"{root}/api/"):
        title = HTTPStatus(status).phrase
        return page(request, "error.html", status, title=title, message=message, problems=problems)
    shapes = [ProblemShape(path=one.path, message=one.message) for one in problems]
    body = ErrorAnswer(error=ErrorShape(message=message, problems=shapes))
    return JSONResponse(body.model_dump(), status, {"Cache-Control": "no-store"})


async def _ours(request: Request, error: Exception) -> Response:
    status = next(code for kind, code in _STATUS if isinstance(error, kind))
    if isinstance(error, SpecError):
        return answer(request, status, "the study is not valid", error.problems)
    return answer(request, status, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return answer(request, error.status, str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 304:
        return Response(status_code=304, headers=error.headers)
    response = answer(request, error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [Problem(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
    return answer(request, 422, "the request is not valid", problems)


async def _unexpected(request: Request, error: Exception) -> Response:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(request, 500, "something went wrong in the server; its log says what")
