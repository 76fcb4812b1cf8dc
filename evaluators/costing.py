"""The cost of a candidate before it is trained: exact counts and predicted memory, from shapes alone."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import build_on_meta, choose_machine, head_of, load_config
from evaluators.counting import Counter
from evaluators.memory import predict_step_bytes
from evaluators.quantization import saved_bytes
from evaluators.score import Cost
from evaluators.spec import ModelSpec
from search_space.candidate import Candidate
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy


class Coster(Protocol):
    """Tells the cost of candidates of one study."""

    anatomy: Anatomy
    parameters: int

    def cost(self, candidate: Candidate) -> Cost:
        """Return the cost. Raises UnsupportedError or PlacementError when the model cannot carry the candidate."""


class MetaCoster:
    """Attaches candidates to the model on the `meta` device, where tensors have shapes and no memory.

    Attributes:
        anatomy: What the model offers.
        parameters: Parameters of the backbone, without the head.
    """

    def __init__(self, spec: ModelSpec, config: Any, batch: int, length: int) -> None:
        machine = choose_machine(spec)
        self._model: nn.Module = build_on_meta(config, machine.attention, machine.dtype)
        self._dtype = machine.dtype
        self._batch, self._length = batch, length
        self._known: dict[tuple[str, bool], Cost] = {}
        self._saved = saved_bytes(self._model, spec.quantization, self._dtype, head_of(self._model))
        self.anatomy = anatomy_of(self._model)
        self.parameters = count_backbone(self._model)
        self._counter = Counter(self._model, self.anatomy)

    def cost(self, candidate: Candidate) -> Cost:
        """Return the exact parameter counts, the size of the checkpoint and the predicted memory of a step."""
        # Of the recipe only this costs anything: dropout keeps masks for the way back.
        key = (candidate.architecture_sha256, candidate.recipe.dropout > 0)
        if key not in self._known:
            counts = self._counter.count(candidate)
            memory = self._predict(attach(self._model, self.anatomy, candidate))
            self._known[key] = Cost(
                counts.trainable_params, counts.head_params, memory, counts.deployed_params, counts.checkpoint_bytes
            )
        return self._known[key]

    def _predict(self, attached: Attached) -> int:
        try:
            return predict_step_bytes(attached, self._dtype, self._batch, self._length) - self._saved
        except (RuntimeError, IndexError, ValueError) as error:
            what = f"{attached.candidate.method} cannot be trained on {self._length} tokens here"
            raise UnsupportedError(f"{what}: {str(error).splitlines()[0]}; lower training.max_length") from error


def count_backbone(model: nn.Module) -> int:
    """Return the number of a classifier's parameters without its head."""
    heads = {id(parameter) for name in head_of(model) for parameter in model.get_submodule(name).parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in heads)


def meta_coster(spec: ModelSpec, classes: int, batch: int, length: int) -> MetaCoster:
    """Make the coster of a model for batches of a size and a length."""
    return MetaCoster(spec, load_config(spec, classes), batch, length)
