"""What a device must have: a documented model, and a factor that measured trials correct."""

from __future__ import annotations

import pytest
import torch

from evaluators.device_memory import (
    CONTEXT_BYTES,
    corrected_factor,
    most_tensor_bytes,
    needed_bytes,
    reserved_bytes,
    tensor_bytes,
)

MIB = 2**20


def test_a_cpu_needs_its_tensors() -> None:
    assert needed_bytes(1000, "cpu") == 1000
    assert needed_bytes(1000, "cpu", 1.5) == 1500


def test_cuda_reserves_whole_blocks_and_keeps_a_context() -> None:
    assert reserved_bytes(100 * MIB) % (2 * MIB) == 0
    assert 100 * MIB < reserved_bytes(100 * MIB) <= (105 + 160 + 20) * MIB
    assert tensor_bytes(reserved_bytes(100 * MIB)) == pytest.approx(100 * MIB, abs=20 * MIB)
    assert needed_bytes(100 * MIB, "cuda") == CONTEXT_BYTES + reserved_bytes(100 * MIB)


def test_more_tensors_and_a_larger_factor_never_need_less() -> None:
    sizes = [reserved_bytes(size * MIB, factor) for size in (1, 10, 500, 5000) for factor in (1.0, 1.1, 2.0)]
    assert sizes == sorted(sizes)


def test_a_limit_is_read_backwards() -> None:
    for limit in (1200 * MIB, 1999 * MIB + 7, 16 * 1024 * MIB):
        most = most_tensor_bytes(limit, "cuda")
        assert needed_bytes(most, "cuda") <= limit < needed_bytes(most + 1, "cuda")
    assert most_tensor_bytes(1000, "cpu") == 1000
    assert most_tensor_bytes(1000, "cuda") == 1, "not even the context has room"


def test_the_factor_stays_until_three_trials_are_measured() -> None:
    assert corrected_factor(1.2, [100.0, 100.0], [200.0, 200.0]) == 1.2


def test_the_factor_follows_what_was_measured() -> None:
    assert corrected_factor(1.2, [100.0] * 5, [103.0] * 5) == pytest.approx(1.03)
    assert corrected_factor(1.0, [100.0] * 10, [100.0] * 9 + [150.0]) == pytest.approx(1.05, abs=0.051)


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["lora", "full", "serial_adapter", "bitfit"])
def test_the_model_is_near_what_cuda_reserves(text: str) -> None:
    from evaluators.anatomy import anatomy_of
    from evaluators.attach import attach
    from evaluators.memory import Load, predict_step
    from evaluators.optimisation import build_optimiser, loss_of
    from search_space.notation import parse
    from tests.architectures import tiny_model

    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 6}
    load = Load(32, 256, 32)
    with torch.device("meta"):
        shapes = tiny_model("bert", **sizes, max_position_embeddings=512).requires_grad_(False)
    predicted = predict_step(attach(shapes, anatomy_of(shapes), parse(text)), torch.float32, load).peak_bytes
    model = tiny_model("bert", **sizes, max_position_embeddings=512).requires_grad_(False).cuda()
    one = attach(model, anatomy_of(model), parse(text))
    del model  # weights that are trained are copies of the backbone's
    one.model.train()
    optimiser = build_optimiser(one)
    ids, labels = torch.ones((32, 256), dtype=torch.long).cuda(), torch.zeros(32, dtype=torch.long).cuda()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        logits = one.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        optimiser.update(loss_of(logits, labels, 0.0), 1.0)
    assert torch.cuda.max_memory_reserved() == pytest.approx(reserved_bytes(predicted), rel=0.15)
