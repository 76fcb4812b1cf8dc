"""Models of an encoder and a decoder, which read a text at its end token: costed, trained, scored, kept like others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.evaluation import EvaluatorSpec
from evaluators.hooks import hooks_of
from evaluators.live_bytes import allocated_peak
from evaluators.memory import Load, measure_peak_bytes, storage_bytes, tensors_of
from evaluators.memory_table import MemoryTable
from evaluators.optimisation import build_optimiser, loss_of
from evaluators.tokens import TokenFolder
from evaluators.trained import TrainedEvaluator
from search_space.notation import parse
from tests.architectures import EOS, tiny_model
from tests.evaluators.tiny import SPECIAL, evaluator_spec

NAMES = ("t5", "bart")
END = SPECIAL.index("[SEP]")
WIDE = {
    "t5": {"d_kv": 16, "d_ff": 128, "num_heads": 4},
    "bart": {
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    },
}
MORE = ("head", "lora", "full", "bitfit", "adalora", "lst")
SHAPES = ((4, 16), (8, 56), (3, 33))


@cache
def wide(name: str, meta: bool, dtype: torch.dtype, attention: str) -> nn.Module:
    with torch.device("meta" if meta else "cpu"):
        model = tiny_model(name, d_model=64, vocab_size=500, num_labels=6, **WIDE[name], attn_implementation=attention)
    return model.to(dtype).requires_grad_(False)


def padded(batch: int, length: int) -> dict[str, Tensor]:
    """Texts of lengths from half to all of a batch's, each with its end token."""
    ids = torch.full((batch, length), 5)
    lengths = [length - one * length // (2 * batch) for one in range(batch)]
    for row, size in zip(ids, lengths, strict=True):
        row[size - 1], row[size:] = EOS, 0
    return {"input_ids": ids, "attention_mask": ids.ne(0).long()}


def measured(model: nn.Module, text: str, inputs: dict[str, Tensor]) -> tuple[int, int]:
    """Bytes of a training step and of a forward pass without gradients."""
    one = attach(model, anatomy_of(model), parse(text))
    one.model.train()
    optimiser, hooks = build_optimiser(one), hooks_of(one)

    def step() -> None:
        logits = one.model(**inputs).logits
        loss = hooks.penalised(loss_of(logits, torch.zeros(len(logits), dtype=torch.long), 0.0))
        del logits
        loss.backward()
        optimiser.descend(1.0)

    def forward() -> None:
        with torch.no_grad():
            one.model(**inputs)

    step()  # the optimiser's state is there from now on
    trained = measure_peak_bytes(one.model, optimiser.tensors, step, torch.device("cpu"))
    one.model.eval()
    forward()
    return trained, storage_bytes(tensors_of(one.model)) + allocated_peak(forward)


@pytest.mark.parametrize(
    ("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("lora", SHAPES[1:2]),
        *(pytest.param(one, SHAPES, marks=pytest.mark.slow) for one in MORE),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_prediction_is_what_padded_texts_take(
    name: str, text: str, shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, attention: str
) -> None:
    shaped, model = (wide(name, meta, dtype, attention) for meta in (True, False))
    for batch, length in shapes:
        foretold = MemoryTable(shaped, anatomy_of(shaped), dtype, Load(batch, length, batch)).cost(parse(text))
        found = measured(model, text, padded(batch, length))
        assert (foretold.peak_bytes, foretold.inference_bytes) == pytest.approx(found, rel=0.01)


@pytest.fixture(scope="module", params=NAMES)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), architecture=request.param, num_labels=3, eos_token_id=END)


@pytest.mark.parametrize("text", ["lora@linear | lr=0.02 dropout=0.1", "full@[top:1] | lr=0.03"])
def test_a_candidate_is_trained_scored_and_read_again(spec: EvaluatorSpec, tmp_path: Path, text: str) -> None:
    run = TrainedEvaluator(spec).start(parse(text), 0)
    first, last = run.advance(4), run.advance(spec.steps)
    assert last.values["nll"] < first.values["nll"]
    assert last.values["latency_ms"] > 0
    run.save(tmp_path)
    tokens = run.evaluator.tokens["validation"]
    run.attached.load(run.saved, run.evaluator.backbone.storages)
    assert (run.predict("validation", tokens) == run.logits["validation"]).all()


def test_every_text_has_one_end_token_at_its_end_however_much_is_cut(spec: EvaluatorSpec) -> None:
    folder = TokenFolder.open(Path(spec.tokens))
    for role in folder.examples:
        for ids in folder.read(role).ids:
            assert ids[-1] == END
            assert ids.count(END) == 1


@pytest.mark.parametrize("text", ["lora@linear[top:1] | lr=0.02", "head | lr=0.1", "lora@attention.query[band:1-1]"])
def test_stored_states_change_no_bit(spec: EvaluatorSpec, text: str) -> None:
    without = replace(spec, training=spec.training.model_copy(update={"prefix_cache": 0}))
    one, other = (TrainedEvaluator(each).start(parse(text), 0) for each in (spec, without))
    assert one.advance(spec.steps).values["nll"] == other.advance(spec.steps).values["nll"]
    assert (one.logits["validation"] == other.logits["validation"]).all()
    assert other.forward.depth == 0
    if one.forward.depth == 0:  # layers of T5 hand on their biases of positions
        assert "gives more than hidden states" in one.forward.why_whole
