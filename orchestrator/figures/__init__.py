"""The front to look at and to take away: an interactive page, a picture, a table and data."""

from __future__ import annotations

from orchestrator.figures.interactive import pareto_figure, pareto_html
from orchestrator.figures.picture import pareto_png
from orchestrator.figures.tables import pareto_csv, pareto_files, pareto_json

__all__ = ["pareto_csv", "pareto_figure", "pareto_files", "pareto_html", "pareto_json", "pareto_png"]
