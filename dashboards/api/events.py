"""Server-sent events: a study has changed. What has changed is fetched from the other routes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dashboards.context import Context
from dashboards.reports import Report
from search_space.errors import StudyNotFoundError

MOST_STREAMS = 200
STREAM_SECONDS = 25.0
POLL_SECONDS = 1.0
_HEARTBEATS = 10
_open: set[object] = set()


async def changes(context: Context, name: str, known: str | None) -> StreamingResponse:
    """Return the stream of a study's changes since a known version. Raises StudyNotFoundError.

    A stream ends by itself after `STREAM_SECONDS`, so that a server can end; browsers connect again with the last
    event's id.
    """
    await run_in_threadpool(context.reports.of, name)
    if len(_open) >= MOST_STREAMS:
        raise HTTPException(503, "too many pages follow studies at the same time; try again later")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(context, name, known), media_type="text/event-stream", headers=headers)


async def _stream(context: Context, name: str, known: str | None) -> AsyncIterator[str]:
    ticket, end = object(), time.monotonic() + STREAM_SECONDS
    _open.add(ticket)
    try:
        yield "retry: 1000\n\n"
        polls = 0
        while time.monotonic() < end and not context.closing.is_set():
            report = await run_in_threadpool(context.reports.of, name)
            if report.version != known:
                known = report.version
                yield _event(report)
            elif polls % _HEARTBEATS == 0:
                yield ": still here\n\n"
            polls += 1
            await asyncio.sleep(POLL_SECONDS)
    except StudyNotFoundError:
        yield "event: gone\ndata: {}\n\n"
    finally:
        _open.discard(ticket)


def _event(report: Report) -> str:
    data = json.dumps({"version": report.version, "state": report.state, "trials": report.done})
    return f"id: {report.version}\nevent: change\ndata: {data}\n\n"
