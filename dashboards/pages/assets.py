"""Static files: a fixed set, read once and served by name from memory, so that no request ever names a path."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

_FOLDER = Path(__file__).parent.parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PLOTLY = "plotly.min.js"
_OWN_SHEET = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')


@dataclass(frozen=True)
class Asset:
    """A static file, and the same compressed."""

    content: bytes
    compressed: bytes
    media_type: str


@cache
def assets() -> Mapping[str, Asset]:
    """Read our own static files, and the chart library from its installed package."""
    own = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
    plotly = files("plotly").joinpath("package_data", PLOTLY).read_bytes()
    return {name: _asset(name, content) for name, content in {**own, PLOTLY: plotly}.items()}


def _asset(name: str, content: bytes) -> Asset:
    return Asset(content, gzip.compress(content, 6, mtime=0), f"{_TYPES[Path(name).suffix]}; charset=utf-8")


def _version() -> str:
    content = b"".join(one.content for one in assets().values())
    return hashlib.sha256(content).hexdigest()[:12]


VERSION = _version()
FOREIGN_SHEETS = tuple(one.decode() for one in _OWN_SHEET.findall(assets()[PLOTLY].content))
"""The chart library puts style sheets of its map library into every page, unless an element of their name is there."""
router = APIRouter(include_in_schema=False)


@router.get("/static/{name}")
def static(name: str, request: Request) -> Response:
    """Serve a static file; pages ask for it under its version, so it may be kept for ever."""
    found = assets().get(name)
    if found is None:
        raise HTTPException(404, "there is no such file")
    kept = "public, max-age=31536000, immutable" if request.query_params.get("v") == VERSION else "no-cache"
    headers = {"Cache-Control": kept, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.compressed, media_type=found.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(found.content, media_type=found.media_type, headers=headers)
