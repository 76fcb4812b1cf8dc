"""The model of diff pruning."""

from __future__ import annotations

from typing import Any

from torch import nn

from evaluators.tuners.diff_pruning.config import DiffPruningConfig
from evaluators.tuners.diff_pruning.layer import DiffPruningLayer
from evaluators.tuners.diff_pruning.sparsity import sparsity_penalty
from evaluators.tuners.weights import floating_weight
from evaluators.tuners.wrapping import WrappingTuner


class DiffPruningModel(WrappingTuner):
    """Diff pruning (Guo et al. 2021, https://arxiv.org/abs/2012.07463): a change with a penalty on its nonzeros.

    What is trained is dense: 2 parameters per weight of the targets (and 1 per target when structured). What is
    deployed is sparse: after training, `fix_mask` keeps the largest changes only, and training may go on with them.
    The penalty is added to the loss here in training; where the backbone is called without this model around it
    (`inject_adapter_in_model`, or `get_peft_model` without a task type), the caller adds `sparsity_penalty(model)`.
    It merges exactly.
    """

    prefix = "diff_pruning_"
    tuner_layer_cls = DiffPruningLayer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone, and add the penalty to its loss in training."""
        outputs = self.model(*args, **kwargs)
        if self.training and getattr(outputs, "loss", None) is not None:
            for name in self.active_adapters:
                outputs.loss = outputs.loss + sparsity_penalty(self.model, name)
        return outputs

    def check_target(self, peft_config: DiffPruningConfig, name: str, target: nn.Module) -> None:
        """Accept whatever has a floating-point weight: linear modules, embeddings, norms."""
        floating_weight(target, name)
