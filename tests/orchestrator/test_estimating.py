"""`paretune estimate`: costs from a configuration alone, of models that no test machine could hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from typer.testing import CliRunner

from orchestrator.cli import app
from search_space.errors import InputError
from tests.architectures import tiny_model

LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of seven billion parameters: its configuration, without a weight."""
    path = tmp_path_factory.mktemp("llama")
    transformers.LlamaConfig(**LARGE, vocab_size=32000).save_pretrained(path)
    return path


def estimated(folder: Path, *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["estimate", str(folder), "--space", "lora", "--json", *options])
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def training(data: dict[str, Any], candidate: str) -> int:
    return int(next(one for one in data["candidates"] if one["candidate"] == candidate)["needed"]["peak_memory_bytes"])


def test_a_model_that_fits_no_machine_here_is_estimated(folder: Path) -> None:
    data = estimated(folder, "--within", "24GiB", "--batch", "2", "--length", "256")
    assert data["backbone_parameters"] == pytest.approx(6.6e9, rel=0.01)
    by_name = {one["candidate"]: one for one in data["candidates"]}
    assert by_name["lora"]["trainable_params"] == 2 * 32 * 8 * 2 * 4096
    assert by_name["lora"]["fits"] is True
    assert by_name["full"]["fits"] is False
    assert by_name["full"]["needed"]["peak_memory_bytes"] > 4 * 2 * 6.6e9
    weights = 2 * data["backbone_parameters"]
    assert weights < by_name["head"]["needed"]["inference_memory_bytes"] < 1.2 * weights + 2**30


def test_a_model_without_fused_attention_is_estimated(tmp_path: Path) -> None:
    tiny_model("gemma2").config.save_pretrained(tmp_path)
    data = estimated(tmp_path, "--batch", "2", "--length", "8")
    assert not data["refused"]
    assert data["candidates"]


def test_every_method_is_told_at_a_small_its_usual_and_a_large_size(folder: Path) -> None:
    """What fits in 16 GiB is a table over methods and ranks, cheapest first, with the references at its ends."""
    data = estimated(folder, "--space", "default", "--within", "16GiB")
    names = [one["candidate"] for one in data["candidates"]]
    assert {"lora(r=1)", "lora", "lora(r=64)", "bitfit", "prefix_tuning", "vera(r=256)", "ia3"} <= set(names)
    assert (names[0], names[-1]) == ("head", "full")
    needed = [one["needed"]["peak_memory_bytes"] for one in data["candidates"]]
    assert needed == sorted(needed)
    assert [one["fits"] for one in data["candidates"]] == [one <= 16 * 2**30 for one in needed]
    assert training(data, "lora(r=1)") < training(data, "lora") < training(data, "lora(r=64)")
    assert not data["refused"]


def test_a_second_answer_comes_from_the_table_of_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = estimated(folder, "--batch", "4")
    monkeypatch.setattr("evaluators.tracing.trace", lambda *_: pytest.fail("traced again"))
    assert estimated(folder, "--batch", "4", "--within", "16GiB")["candidates"] == [
        one | {"fits": one["needed"]["peak_memory_bytes"] <= 16 * 2**30} for one in first["candidates"]
    ]


def test_quantisation_and_checkpointing_need_less(folder: Path) -> None:
    plain = training(estimated(folder), "lora")
    assert training(estimated(folder, "--quantization", "nf4"), "lora") < plain - 8e9
    assert training(estimated(folder, "--checkpointing"), "lora") < plain


def test_torchaos_kinds_are_estimated_as_they_lie_on_the_device(folder: Path) -> None:
    """Four-bit weights are packed in pairs on CUDA, and take a byte each on a CPU; 6.4e9 are quantised."""
    options = ("--quantization", "torchao_int4", "--factor", "1", "--batch", "1", "--length", "64")
    packed, apart = (training(estimated(folder, "--device", one, *options), "head") for one in ("cuda", "cpu"))
    assert 0.6 * 6.4e9 < packed < 0.9 * 6.4e9
    assert 0.2 * 6.4e9 < apart - packed < 0.5 * 6.4e9


def test_it_reads_well(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["estimate", str(folder), "--space", "lora", "--within", "16GiB"])
    assert shown.exit_code == 0
    assert "prediction, not a measurement" in " ".join(shown.output.split())
    assert "fits" in shown.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "defualt"], r"--space: 'defualt' is not one of .* \(did you mean 'default'\?\)"),
        (["--dtype", "float8"], "--dtype: 'float8' is not one of"),
        (["--within", "much"], "--within: "),
    ],
)
def test_bad_options_are_refused_by_name(folder: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["estimate", str(folder), *options], catch_exceptions=False)
