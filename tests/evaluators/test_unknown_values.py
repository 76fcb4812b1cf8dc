"""Operations that need values are answered for fake tensors, and as ever for real ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor
from transformers import masking_utils

from evaluators.fake_tensors import fake_tensors
from evaluators.live_bytes import LiveBytes

TEXTS, TOKENS, WIDTH = 3, 5, 4
END = 2


def answer(ask: Callable[[Tensor, Tensor], object]) -> object:
    """What is answered to something asked of fake token ids and hidden states."""
    with fake_tensors(), LiveBytes():
        return ask(torch.zeros((TEXTS, TOKENS), dtype=torch.long), torch.zeros((TEXTS, TOKENS, WIDTH)))


def test_texts_agree_in_their_number_of_end_tokens() -> None:
    assert answer(lambda ids, _: torch.unique_consecutive(ids.eq(END).sum(1)).numel()) == 1


def test_a_mask_of_end_tokens_takes_one_vector_of_each_text() -> None:
    found = answer(lambda ids, states: states[ids.eq(END), :])
    assert isinstance(found, FakeTensor)
    assert found.shape == (TEXTS, WIDTH)


def test_its_gradient_goes_back_to_all_tokens() -> None:
    def ask(ids: Tensor, states: Tensor) -> object:
        states.requires_grad_()
        states[ids.eq(END), :].sum().backward()
        return states.grad

    found = answer(ask)
    assert isinstance(found, FakeTensor)
    assert found.shape == (TEXTS, TOKENS, WIDTH)


@pytest.mark.parametrize("mask", [lambda ids: ids > END, lambda ids: ids.bool()])
def test_what_another_mask_takes_is_not_guessed(mask: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(DynamicOutputShapeException):
        answer(lambda ids, states: states[mask(ids), :])


def test_what_was_filled_with_ones_is_full_and_nothing_else_is() -> None:
    assert answer(lambda *_: bool(torch.ones(2, 3).to(torch.bool).sum() == 6)) is True
    assert answer(lambda *_: bool(torch.ones(2, 3).to(torch.bool)[:, 1:].sum() == 4)) is True
    assert answer(lambda *_: bool(torch.ones(2, 3).sum() == 5)) is False
    assert answer(lambda ids, _: bool(torch.ones_like(ids).sum() == ids.numel())) is False
    assert answer(lambda ids, _: bool(ids.bool().all())) is False


def test_what_was_written_to_is_not_full_any_more() -> None:
    def ask(*_: Tensor) -> bool:
        mask = torch.ones(2, 3)
        mask[0, 1:] = 0
        return bool(mask.sum() == 6)

    assert answer(ask) is False


def test_real_tensors_have_their_own_values() -> None:
    ids = torch.tensor([[3, END, 0], [3, 4, END]])
    states = torch.arange(6.0).reshape(2, 3, 1)
    with LiveBytes():
        assert torch.unique_consecutive(ids.eq(END).sum(1)).tolist() == [1]
        assert states[ids.eq(END), :].flatten().tolist() == [1.0, 5.0]
        assert not bool(torch.ones(3)[:2].sum() == 3)


def test_the_library_is_left_as_it_was() -> None:
    before = masking_utils.is_tracing
    with fake_tensors():
        assert not masking_utils.is_tracing(torch.zeros(1))
    assert masking_utils.is_tracing is before
