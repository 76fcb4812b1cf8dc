"""Templates into answers, with a policy that lets nothing run but our own scripts."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dashboards.pages import views
from dashboards.pages.assets import FOREIGN_SHEETS, VERSION

_FOLDER = Path(__file__).parent.parent / "templates"
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters.update(ago=views.ago, metric=views.metric, short=views.short)
EXAMPLE = (_FOLDER / "example.yaml").read_text(encoding="utf-8")
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template. Every value is escaped; scripts and styles run by a nonce of this answer alone."""
    nonce = secrets.token_urlsafe(16)
    context = request.app.state.context
    html = _TEMPLATES.get_template(template).render(
        root=request.scope.get("root_path", ""),
        nonce=nonce,
        version=VERSION,
        foreign_sheets=FOREIGN_SHEETS,
        has_token=context.settings.token is not None,
        **values,
    )
    headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
    return HTMLResponse(html, status, headers)
