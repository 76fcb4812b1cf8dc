"""Sparse masks: which weights, how many, and the Fisher information."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn

from evaluators.tuners.mask import MaskConfig, fisher_scores, select_by_scores
from search_space.errors import CandidateError, DataError, PlacementError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).requires_grad_(False)


BATCHES = [(torch.full((1, 6), float(i)), torch.ones(1, 4)) for i in range(1, 4)]


def test_a_magnitude_mask_takes_the_largest_weights() -> None:
    model = small()
    weight = model[0].weight.detach().clone()
    inject_adapter_in_model(MaskConfig(target_modules=["0"], density=0.2), model)
    values = model[0].sparse_mask_values["default"]
    nn.init.ones_(values)
    delta = model[0].deltas("default")["weight"]
    assert values.numel() == 6 == int(delta.count_nonzero())
    assert weight.abs()[delta == 0].max() <= weight.abs()[delta == 1].min()


def test_fisher_scores_are_mean_squared_gradients() -> None:
    model = small()
    inject_adapter_in_model(MaskConfig(target_modules=["0", "1"], density=0.2, criterion="fisher"), model)
    model.train()
    scores = fisher_scores(model, BATCHES, squared_error)
    twin = small().requires_grad_(True)
    for index in range(2):
        expected = torch.zeros_like(twin[index].weight)
        for batch in BATCHES:
            expected += torch.autograd.grad(squared_error(twin, batch), twin[index].weight)[0].square()
        torch.testing.assert_close(scores[str(index)], expected / len(BATCHES))
    assert model.training
    assert not any(layer.base_layer.weight.requires_grad for layer in model)


def test_a_selection_spreads_the_same_number_over_all_targets(tmp_path: Path) -> None:
    config = MaskConfig(target_modules=["0", "1"], density=0.2, criterion="fisher")
    model = get_peft_model(small(), config)
    before = trained(model)
    scores = {"0": torch.zeros(5, 6), "1": torch.arange(20.0).view(4, 5)}
    select_by_scores(model, scores)
    assert config.counts == {"0": 0, "1": 10}
    assert trained(model) == before == 10
    assert model.base_model.model[1].sparse_mask_indices["default"].tolist() == list(range(10, 20))
    nn.init.normal_(model.base_model.model[1].sparse_mask_values["default"])
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(small(), tmp_path)
    torch.testing.assert_close(reloaded(BATCHES[0][0]), model(BATCHES[0][0]))


def test_a_fisher_mask_is_not_trained_before_its_selection() -> None:
    model = small()
    inject_adapter_in_model(MaskConfig(target_modules=["0"], criterion="fisher"), model)
    with pytest.raises(UnsupportedError, match="has not been chosen yet"):
        model.train()(BATCHES[0][0])
    select_by_scores(model, fisher_scores(model, BATCHES, squared_error))
    model.train()(BATCHES[0][0])


def test_a_fisher_mask_is_counted_on_meta(bert: Any) -> None:
    model = bert.build(device="meta")
    config = MaskConfig(target_modules=bert.names("feed_forward"), density=0.05, criterion="fisher")
    inject_adapter_in_model(config, model)
    assert trained(model) == 4 * round(0.05 * 16 * 32)


def test_bad_scores_are_refused() -> None:
    model = small()
    inject_adapter_in_model(MaskConfig(target_modules=["0"], criterion="fisher"), model)
    with pytest.raises(PlacementError, match="no scores for '0'"):
        select_by_scores(model, {})
    with pytest.raises(DataError, match="NaN"):
        select_by_scores(model, {"0": torch.full((5, 6), torch.nan)})
    with pytest.raises(DataError, match="without batches"):
        fisher_scores(model, [])
    with pytest.raises(PlacementError, match="no mask called 'other'"):
        fisher_scores(model, BATCHES, squared_error, adapter_name="other")


@pytest.mark.parametrize("knobs", [{"density": 0.0}, {"density": 1.5}, {"criterion": "fischer"}])
def test_a_bad_knob_is_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(CandidateError):
        MaskConfig(target_modules=["0"], **knobs)
