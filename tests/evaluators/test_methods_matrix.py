"""Every method on tiny models of every architecture: attached, trained, counted, reloaded, merged where it says so.

By default each method is tried on BERT and on one other architecture, another for each method; `-m slow` tries all.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluators.attach import attach
from evaluators.backbone import Backbone
from evaluators.exported import is_peft, reload_peft
from evaluators.hook import Schooling
from evaluators.hooks import hooks_of
from evaluators.memory import Load, predict_step
from evaluators.probing import pair_of, probe_method, probe_part, probe_quantised, train
from evaluators.specimens import SPECIMENS, TEXT_SPECIMENS, logits_of, tiny, tiny_quantised, without_weights
from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.capability import PAIR_FAMILIES, TABLE_FILE, why_not_together
from search_space.errors import CandidateError, UnsupportedError
from search_space.notation import parse, write
from search_space.registry import PER_TASK, method, methods
from search_space.space import at_defaults
from tests.evaluators.peft_folders import save_with_peft

NAMES = [
    name
    for name, one in methods().items()
    if one.route not in ("head", "full") and not one.quantised_only and not one.several_tasks
]
OF_TASKS = [name for name, one in methods().items() if one.several_tasks]
ON_BERT = [name for name in NAMES if name != "adaption_prompt"]
CHOICES = [
    (name, knob.name, value)
    for name in (*NAMES, *OF_TASKS)
    for knob in method(name).knobs
    if knob is not PER_TASK
    for value in knob.values
]
SIZES = [(name, knob.name) for name in NAMES for knob in method(name).knobs if knob.low is not None]
TABLE = json.loads(TABLE_FILE.read_text())["methods"]
ELSEWHERE = [name for name in SPECIMENS if name != "bert"]
CUT = [(name, ELSEWHERE[index % len(ELSEWHERE)]) for index, name in enumerate(NAMES)]
CUT += [(name, architecture) for name in OF_TASKS for architecture in ("bert", "llama")]
ALL = [(name, architecture) for name in (*NAMES, *OF_TASKS) for architecture in SPECIMENS]

FRESH = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
import torch
from evaluators.attach import attach
from evaluators.backbone import Backbone
from evaluators.hooks import load_trained
from evaluators.specimens import logits_of, tiny
from search_space.notation import parse
from search_space.registry import method

torch.set_num_threads(1)
folder = Path(sys.argv[1])
found = {}
for name, (architecture, text) in json.loads((folder / "candidates.json").read_text()).items():
    candidate = parse(text)
    model, anatomy = tiny(architecture, 2 if any(method(part.method).several_tasks for part in candidate.parts) else 1)
    shared = Backbone(model, None, torch.device("cpu"), torch.float32).storages
    attached = attach(model, anatomy, candidate, seed=5)
    load_trained(attached, load_file(folder / f"{name}.safetensors"), shared)
    found[name] = logits_of(attached.model, architecture)
save_file(found, folder / "found.safetensors")
"""


def fails(name: str, architecture: str) -> set[str]:
    return set(TABLE[name][architecture])


@pytest.mark.parametrize("name", ON_BERT)
def test_a_method_does_what_it_promises_on_bert(name: str) -> None:
    assert set(probe_method(name, "bert")) == (set() if method(name).merges else {"merges"})


@pytest.mark.parametrize(("name", "architecture"), CUT)
def test_a_method_does_on_another_architecture_what_the_table_says(name: str, architecture: str) -> None:
    assert set(probe_method(name, architecture)) == fails(name, architecture)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), ALL)
def test_a_method_does_on_every_architecture_what_the_table_says(name: str, architecture: str) -> None:
    assert set(probe_method(name, architecture)) == fails(name, architecture)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs paretune[quantization]")
@pytest.mark.parametrize("value", method("loftq").knob("r").values[:2])
def test_loftq_does_on_quantised_weights_what_it_promises(value: int) -> None:
    assert not set(probe_quantised("loftq", "nf4")) & {"attaches", "trains", "reloads"}
    model, anatomy = tiny_quantised("llama", "nf4", torch.float32)
    train(attach(model, anatomy, parse(f"loftq(r={value})")), "llama")


class TestTheTable:
    @pytest.mark.parametrize("name", [*NAMES, *OF_TASKS])
    def test_whatever_trains_was_counted_right_and_reloads(self, name: str) -> None:
        trained = [one for one in SPECIMENS if not fails(name, one) & {"attaches", "trains"}]
        assert [one for one in trained if fails(name, one) & {"counts", "reloads"}] == []

    @pytest.mark.parametrize("name", NAMES)
    def test_a_method_that_merges_does_so_nearly_everywhere(self, name: str) -> None:
        """All that trains merges, but for biases where the module has no place for one."""
        trained = [one for one in SPECIMENS if not fails(name, one) & {"attaches", "trains"}]
        merged = [one for one in trained if "merges" not in fails(name, one)]
        if not method(name).merges:
            assert merged == []
        elif name not in ("beft", "bitfit"):
            assert merged == trained

    def test_every_architecture_carries_most_methods(self) -> None:
        for architecture in SPECIMENS:
            carried = [name for name in NAMES if not fails(name, architecture) & {"attaches", "trains"}]
            assert {"lora", "serial_adapter", "bitfit"} <= {*carried, *(("bitfit",) if architecture == "clip" else ())}
            assert len(carried) >= (0.8 if architecture in TEXT_SPECIMENS and architecture != "gpt2" else 0.4) * len(
                NAMES
            )


@pytest.mark.parametrize("name", ON_BERT)
def test_memory_is_predicted_from_shapes(name: str) -> None:
    bare = without_weights("bert")
    attached = attach(bare, tiny("bert")[1], at_defaults(name))
    assert predict_step(attached, torch.float32, Load(2, 8, 2)).peak_bytes > 4 * attached.trainable_params


def reload_freshly(candidates: dict[str, tuple[str, Candidate]], folder: Path) -> None:
    """Train candidates, save them, and see that another process loads them to equal logits."""
    wanted = {}
    for name, (architecture, candidate) in candidates.items():
        tasks = 2 if any(method(part.method).several_tasks for part in candidate.parts) else 1
        model, anatomy = tiny(architecture, tasks)
        attached = attach(model, anatomy, candidate)
        train(attached, architecture)
        shared = Backbone(model, None, torch.device("cpu"), torch.float32).storages
        save_file(attached.state(shared), folder / f"{name}.safetensors")
        wanted[name] = logits_of(attached.model, architecture)
    texts = {name: (architecture, write(candidate)) for name, (architecture, candidate) in candidates.items()}
    (folder / "candidates.json").write_text(json.dumps(texts))
    subprocess.run([sys.executable, "-c", FRESH, str(folder)], check=True, timeout=600)
    found = load_file(folder / "found.safetensors")
    for name, logits in wanted.items():
        torch.testing.assert_close(
            found[name], logits, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_methods_and_hybrids_reload_in_a_fresh_process(tmp_path: Path) -> None:
    texts = [
        *("olora", "eva", "pissa", "adalora", "vera", "frod", "shira", "adamss", "mask", "diff_pruning", "lst"),
        *("lora + bitfit", "vera + mask", "lora + ia3 + prefix_tuning", "bitfit + lst", "unipelt + gated_prefix"),
        *OF_TASKS,
    ]
    chosen = {f"c{index}": ("bert", parse(text)) for index, text in enumerate(texts)}
    chosen |= {"llama": ("llama", parse("adaption_prompt + lora@mlp")), "t5": ("t5", parse("lora + serial_adapter"))}
    reload_freshly(chosen, tmp_path)


def offered(family: str) -> list[tuple[str, str, str]]:
    """Return every pair that may share a model of a family: on the same modules, or on others."""
    carried = [name for name in sorted(TABLE) if not fails(name, family) & {"attaches", "trains", "reloads"}]
    return [
        (first, second, layers)
        for first, second, layers in product(carried, carried, ("shared", "disjoint"))
        if not why_not_together(first, second, layers, family)  # type: ignore[arg-type]
    ]


def pairs_of(family: str, pairs: list[tuple[str, str, str]]) -> dict[str, tuple[str, Candidate]]:
    return {
        f"{family}-{first}-{second}-{layers}": (family, pair_of(method(first), method(second), layers))
        for first, second, layers in pairs
    }


def test_pairs_that_are_offered_reload_in_a_fresh_process(tmp_path: Path) -> None:
    chosen: dict[str, tuple[str, Candidate]] = {}
    for family in PAIR_FAMILIES:
        chosen |= pairs_of(family, Random(f"{family}, freshly").sample(offered(family), 8))
    reload_freshly(chosen, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", sorted(TABLE))
@pytest.mark.parametrize("family", PAIR_FAMILIES)
def test_every_pair_that_is_offered_reloads_in_a_fresh_process(family: str, first: str, tmp_path: Path) -> None:
    if pairs := [pair for pair in offered(family) if pair[0] == first]:
        reload_freshly(pairs_of(family, pairs), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("architecture", SPECIMENS)
def test_every_method_reloads_in_a_fresh_process(architecture: str, tmp_path: Path) -> None:
    able = [name for name in (*NAMES, *OF_TASKS) if not fails(name, architecture) & {"attaches", "trains"}]
    reload_freshly({name: (architecture, at_defaults(name)) for name in able}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ON_BERT if is_peft(at_defaults(name))])
def test_peft_reloads_its_own_folder_to_equal_outputs(name: str, tmp_path: Path) -> None:
    model, anatomy = tiny("bert")
    attached = attach(model, anatomy, at_defaults(name))
    train(attached, "bert")
    backbone = save_with_peft(attached, "bert", tmp_path)
    torch.testing.assert_close(logits_of(reload_peft(backbone, tmp_path)), logits_of(attached.model), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "knob", "value"), CHOICES)
def test_every_value_of_every_knob_keeps_what_the_method_promises_or_is_refused(
    name: str, knob: str, value: KnobValue
) -> None:
    family = "llama" if name == "adaption_prompt" else "bert"
    part = method(name).default_part()
    part = Part(name, tuple((dict(part.knobs) | {knob: value}).items()), part.placement)
    failed = probe_part(part, family)
    if "attaches" in failed:
        tasks = tiny(family, 2 if method(name).several_tasks else 1)[1].tasks
        with pytest.raises(UnsupportedError):
            attach(without_weights(family, tasks), tiny(family, tasks)[1], Candidate((part,), Recipe((1e-3,))))
    else:
        assert set(failed) == (set() if method(name).merges else {"merges"})


@pytest.mark.parametrize(("name", "knob"), SIZES)
def test_every_size_that_differs_between_layers_trains_or_is_refused(name: str, knob: str) -> None:
    model, anatomy = tiny("bert" if name in ON_BERT else "llama")
    rule = method(name)
    part = rule.default_part()
    first, *others = rule.knob(knob).values
    sizes = (first, others[0] if others else first + 1)
    part = Part(name, tuple((dict(part.knobs) | {knob: sizes}).items()), part.placement)
    if not (rule.knob(knob).per_layer and rule.placement.layers):
        with pytest.raises(CandidateError, match="all layers"):
            rule.check(part)
        return
    train(attach(model, anatomy, Candidate((part,), Recipe((rule.learning_rate.default,)))), "bert")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boft(boft_block_size=5)", r"boft_block_size = 5 does not divide 64; '2', '4', '8', '16', '32', '64' would"),
        ("c3a(block_size=48)@mlp.up", "block_size = 48 does not divide 64; .* would divide all of 64, 128"),
        ("gralora(r=5)", "gralora_k = 2 does not divide 5; only 1 would divide all of 5, 64"),
        ("fourierft(n_frequency=5000)", "n_frequency = 5000 is more than the 4096 that the smallest module has"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_what_would(text: str, message: str) -> None:
    model, anatomy = tiny("bert")
    with pytest.raises(UnsupportedError, match=message):
        attach(model, anatomy, parse(text))


class TestHooks:
    def test_a_fish_mask_goes_where_the_information_is_and_keeps_its_size(self) -> None:
        model, anatomy = tiny("bert")
        attached = attach(model, anatomy, parse("mask(density=0.02)@linear"))
        before = attached.trainable_params
        train(attached, "bert")
        counts = [p.numel() for n, p in attached.model.named_parameters() if "sparse_mask_values" in n]
        assert sum(counts) == before
        assert len(set(counts)) > 2  # uniform in each kind of module before

    def test_adalora_ends_with_the_rank_that_it_was_told(self) -> None:
        model, anatomy = tiny("bert")
        attached = attach(model, anatomy, parse("adalora(target_r=4)"))
        train(attached, "bert")
        kept = [int(p.count_nonzero()) for n, p in attached.model.named_parameters() if "lora_E" in n]
        assert sum(kept) == 4 * len(kept)

    @pytest.mark.parametrize(("name", "pays"), [("adalora", True), ("diff_pruning", True), ("lora", False)])
    def test_only_some_methods_add_to_the_loss(self, name: str, pays: bool) -> None:
        model, anatomy = tiny("bert")
        attached = attach(model, anatomy, at_defaults(name))
        hooks = hooks_of(attached)
        hooks.begin(attached, Schooling(4, [], lambda model, batch: torch.zeros(())))
        assert bool(hooks.penalised(torch.zeros(())) > 0) == pays
