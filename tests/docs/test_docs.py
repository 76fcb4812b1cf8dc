"""The pages say what the code has: a failing test names what is missing or wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dashboards.context import Context, Settings
from dashboards.site import our_app
from evaluators.score import METRICS
from evaluators.spec import SourceSpec
from orchestrator.cli import app
from orchestrator.home import Home
from orchestrator.spec import StudySpec
from orchestrator.study_file import read_file, read_text
from search_space.spec import presets
from tests.docs.rendered import PAGES, rendered

ROOT = Path(__file__).parents[2]
PACKAGES = ("search_space", "calibration", "evaluators", "orchestrator", "dashboards")
PAGES_WITH_LINKS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def sections(path: str, marks: str) -> dict[str, str]:
    """Return what stands under each heading of one level, by the heading's text."""
    parts = re.split(rf"^{marks} (.+)$", text_of(path), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table_rows(text: str) -> dict[str, list[str]]:
    """Return the cells of every table row that begins with code, by that code."""
    rows = [
        [cell.strip() for cell in line.strip("| \n").split(" | ")] for line in text.splitlines() if line[:3] == "| `"
    ]
    return {re.findall(r"`([^`]+)`", row[0])[0]: row[1:] for row in rows}


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(app)
    return dict(getattr(group, "commands", {}))


def test_every_command_and_option_is_in_the_page_of_the_command_line() -> None:
    described = sections("docs/cli.md", "##")
    missing = [f"## paretune {name}" for name in commands() if f"paretune {name}" not in described]
    for name, command in commands().items():
        page = described.get(f"paretune {name}", "")
        for parameter in command.params:
            if parameter.param_type_name == "option" and f"| `{parameter.opts[0]}` |" not in page:
                missing.append(f"paretune {name} {parameter.opts[0]}")
    assert not missing, f"docs/cli.md lacks {missing}"


def test_the_page_of_the_command_line_describes_nothing_else() -> None:
    known = {f"paretune {name}": command for name, command in commands().items()}
    described = {name: text for name, text in sections("docs/cli.md", "##").items() if name.startswith("paretune ")}
    assert described.keys() == known.keys()
    odd = []
    for name, text in described.items():
        options = {one.opts[0] for one in known[name].params}
        shown = re.findall(r"^\| `(--[\w-]+)` \|", text, re.MULTILINE)
        odd += [f"{name} {option}" for option in shown if option not in options]
    assert not odd, f"docs/cli.md describes what is not there: {odd}"


def test_every_variable_of_the_environment_is_in_the_page_of_the_command_line() -> None:
    sources = [file.read_text(encoding="utf-8") for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bPARETUNE_[A-Z_]+[A-Z]\b", text)}
    missing = sorted(name for name in used if f"`{name}`" not in text_of("docs/cli.md"))
    assert not missing, f"docs/cli.md lacks {missing}"


def keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key of a spec as a study file writes it, sections included."""
    for name, field in model.model_fields.items():
        settings = path in ("space.methods.METHOD.", "space.hybrids.parts.")
        word = "KNOB" if settings and name == "knobs" else name
        yield f"{path}{word}", field
        for inner, is_mapping in inner_models(field.annotation):
            if inner is SourceSpec:  # one of several tasks has the keys of `task` itself
                continue
            yield from keys(inner, f"{path}{word}." + ("METHOD." if is_mapping else ""))


def inner_models(annotation: Any, is_mapping: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, is_mapping
    for one in get_args(annotation):
        yield from inner_models(one, is_mapping or getattr(annotation, "__origin__", None) is dict)


def default_of(field: FieldInfo) -> str:
    """Return a key's default as the page writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "section"
    return "–" if value is None else f"`{written(value)}`"


def written(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, BaseModel):
        return f"{value.direction}: {value.metric}"  # type: ignore[attr-defined]  (an objective)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_key_of_a_study_file_is_in_its_page_with_its_default() -> None:
    rows = table_rows(text_of("docs/study-file.md"))
    known = dict(keys(StudySpec))
    missing = [key for key in known if key not in rows]
    assert not missing, f"docs/study-file.md lacks {missing}"
    wrong = {
        key: f"the default is {default_of(field)}, not {rows[key][1]}"
        for key, field in known.items()
        if not key.endswith(".KNOB") and rows[key][1] != default_of(field)
    }
    assert not wrong
    odd = [key for key in rows if "." in key and key not in known]
    assert not odd, f"docs/study-file.md describes what is not there: {odd}"


@pytest.mark.parametrize("page", PAGES)
def test_what_comes_from_the_registry_is_up_to_date(page: str) -> None:
    assert rendered(page) == text_of(page), f"{page} is behind the registry; run: python -m tests.docs.rendered"


def test_every_preset_and_sampler_is_in_the_page_of_the_study_file() -> None:
    rows = table_rows(text_of("docs/study-file.md"))
    kinds = {
        "space.preset": list(presets()),
        "search.sampler": [one.stem for one in ROOT.glob("orchestrator/samplers/[a-z]*.py")],
    }
    missing = {key: [name for name in names if f"`{name}`" not in rows[key][0]] for key, names in kinds.items()}
    assert not any(missing.values()), f"docs/study-file.md lacks {missing}"


def test_every_metric_is_in_its_page_with_unit_and_direction() -> None:
    rows = table_rows(text_of("docs/metrics.md"))
    wrong = [name for name, one in METRICS.items() if rows.get(name, [])[:2] != [one.unit, one.direction]]
    assert not wrong, f"docs/metrics.md lacks these, or says another unit or direction of them: {wrong}"


def test_every_route_is_in_the_page_of_the_service(tmp_path: Path) -> None:
    schema = our_app(Context.open(Settings(Home(tmp_path)))).openapi()
    routes = [f"{verb.upper()} /paretune{path}" for path, verbs in schema["paths"].items() for verb in verbs]
    missing = [route for route in routes if f"`{route}`" not in text_of("docs/service.md")]
    assert not missing, f"docs/service.md lacks {missing}"


def files() -> Iterator[Path]:
    for name in PACKAGES:
        for file in sorted((ROOT / name).rglob("*")):
            path = file.relative_to(ROOT)
            if file.is_file() and "__pycache__" not in path.parts and file.name not in ("__init__.py", "py.typed"):
                yield path


def is_named(path: Path, described: dict[str, str]) -> bool:
    """Whether a file is named under its folder, or, in a folder that is named, with the files that all such have."""
    folder = next(parent for parent in path.parents if f"{parent}/" in described or len(parent.parts) == 1)
    text = described.get(f"{folder}/", "")
    return f"`{path.name}`" in text and (path.parent == folder or f"`{path.parent.name}/`" in text)


def test_every_file_is_named_in_the_architecture() -> None:
    described = sections("ARCHITECTURE.md", "###")
    missing = [str(path) for path in files() if not is_named(path, described)]
    assert not missing, f"ARCHITECTURE.md lacks {missing}"


def test_the_architecture_names_no_file_that_is_gone() -> None:
    gone = []
    for folder, text in sections("ARCHITECTURE.md", "###").items():
        named = re.findall(r"^\| `([\w./-]+)` \|", text, re.MULTILINE) if folder.endswith("/") else []
        gone += [f"{folder}{name}" for name in named if not (ROOT / folder / name).exists()]
    assert not gone


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_valid_study(path: Path) -> None:
    assert read_file(path).name
    assert f"({path.name})" in text_of("examples/README.md"), f"examples/README.md lacks {path.name}"


@pytest.mark.parametrize("page", ["README.md", "docs/study-file.md"])
def test_every_study_in_a_page_is_valid(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", text_of(page), re.DOTALL)
    assert blocks
    for block in blocks:
        given = {line.partition(":")[0] for line in block.splitlines()}
        needed = {"name": "x", "model": "builtin:minilm-l6", "task": "builtin:trec"}
        read_text("".join(f"{key}: {value}\n" for key, value in needed.items() if key not in given) + block)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES_WITH_LINKS:
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path = target.partition("#")[0]
            if path and "://" not in path and not (page.parent / path).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_decision_is_listed() -> None:
    listed = text_of("docs/decisions/README.md")
    missing = [path.name for path in (ROOT / "docs/decisions").glob("0*.md") if f"({path.name})" not in listed]
    assert not missing
