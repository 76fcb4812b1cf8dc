"""Multitask prompt tuning: a prompt of all tasks, multiplied by a low-rank matrix of each task (Wang et al. 2023)."""

from __future__ import annotations

from typing import Any

from search_space.candidate import Part
from search_space.knobs import LogRange, sizes
from search_space.placement import Placement
from search_space.registry import Method, PlacementRule, Targets


def config(part: Part, targets: Targets) -> dict[str, Any]:
    """Return the arguments of peft's MultitaskPromptTuningConfig."""
    return {
        "num_virtual_tokens": part["num_virtual_tokens"],
        "num_ranks": part["num_ranks"],
        "num_tasks": targets.anatomy.tasks,
    }


METHOD = Method(
    name="multitask_prompt_tuning",
    title="Multitask prompt tuning",
    family="multi-task",
    paper="Wang et al. 2023, arXiv:2303.02861",
    summary="Puts trained tokens before the input: those of all tasks times a low-rank matrix of the task.",
    knobs=(
        sizes("num_virtual_tokens", (4, 8, 16, 32, 64), 16, "number of tokens"),
        sizes("num_ranks", (1, 2, 4), 1, "rank of each task's matrix"),
    ),
    placement=PlacementRule(default=Placement(), layers=False, kinds=()),
    learning_rate=LogRange(0.005, 0.3, 0.03),
    route="prompt",
    peft_type="MULTITASK_PROMPT_TUNING",
    merges=False,
    config=config,
    several_tasks=True,
)
