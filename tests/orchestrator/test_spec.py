"""Study specs: every problem at once, each at its path, with what is allowed; and YAML without its surprises."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import EarlyStopping, StudySpec, parse
from orchestrator.study_file import MOST_BYTES, read_file, read_text
from search_space.errors import SpecError

LEAST = {"name": "demo", "model": "builtin:minilm-l6", "task": "builtin:trec"}
FULL: dict[str, Any] = {
    **LEAST,
    "model": {"name": "org/model", "revision": "v1", "dtype": "bfloat16", "device": "cpu"},
    "task": {
        "files": {"train": "a.csv", "test": "b.csv"}, "text": ["question", "answer"], "label": "kind", "group": "doc",
        "splits": {"validation": 0.2, "test": "test", "seed": 3}, "max_train": 100,
    },
    "space": {"methods": {"lora": {"r": [2, 4], "learning_rate": 1e-3}}, "hybrids": ["lora + bitfit"]},
    "objectives": [{"maximize": "accuracy"}, {"minimize": "trainable_params"}, {"minimize": "calibrated_ece"}],
    "budgets": {"trainable_params": "1%", "memory": "2GiB", "latency": "3ms", "trials": 9, "time": "9min", "steps": 50},
    "search": {"sampler": "random", "seed": 7, "early_stopping": {"eta": 2, "rungs": 2}, "references": ["head"]},
    "training": {"epochs": 1, "batch_size": 16},
    "calibration": {"bins": 10},
    "resources": {"cpus": 0.5, "gpus": 0.25, "concurrency": 2},
    "synthetic": {"faults": {"lora": "oom"}},
}  # fmt: skip


WORDS = [*StudySpec.model_fields, "x", ""]
STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=8,
)


def problems(data: object) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        parse(data)
    return {one.path: one.message for one in refused.value.problems}


def change(path: str, value: object) -> dict[str, Any]:
    data = json.loads(json.dumps(FULL))
    *parents, last = path.split(".")
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return data


class TestReading:
    def test_the_least_that_is_a_study(self) -> None:
        spec = parse(LEAST)
        assert spec.model.name == "builtin:minilm-l6"
        assert [one.to_json() for one in spec.objectives] == [
            {"maximize": "accuracy"},
            {"minimize": "trainable_params"},
        ]

    @pytest.mark.parametrize("data", [LEAST, FULL])
    def test_what_is_written_reads_back_equal(self, data: dict[str, Any]) -> None:
        spec = parse(data)
        again = parse(json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert again.sha256 == spec.sha256

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("budgets.trials", 99),
            ("budgets.time", "2h"),
            ("budgets.steps", 7),
            ("budgets.trial_time", "5s"),
            ("resources.cpus", 2),
        ],
    )
    def test_how_much_is_bought_does_not_change_what_a_study_is(self, path: str, value: object) -> None:
        assert parse(change(path, value)).sha256 == parse(FULL).sha256

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("budgets.memory", "1GiB"),
            ("search.seed", 8),
            ("training.epochs", 2),
            ("model.revision", "v2"),
            ("task.label", "x"),
        ],
    )
    def test_anything_else_does(self, path: str, value: object) -> None:
        assert parse(change(path, value)).sha256 != parse(FULL).sha256

    def test_rungs_divide_full_training_and_rise(self) -> None:
        assert EarlyStopping(eta=3.0, rungs=3).steps(90) == (10, 30, 90)
        assert EarlyStopping(rungs=1).steps(90) == (90,)
        assert EarlyStopping(rungs=10).steps(5) == (1, 2, 5)


class TestRefusals:
    def test_every_problem_is_told_at_once(self) -> None:
        found = problems(
            {
                "name": "Not A Name", "modle": "x", "model": {"dtype": "float16"},
                "task": {"dataset": "builtin:trek", "txt": "t"},
                "space": {"methods": {"lorra": {}, "lora": {"rank": 4}}, "hybrids": ["lora"]},
                "objectives": [{"maximise": "accuracy"}, {"minimize": "acuracy"}],
                "budgets": {"memry": "2GiB", "trials": 0},
                "search": {"samplr": "tpe", "sampler": "tpee", "early_stopping": {"etaa": 2}},
            }
        )  # fmt: skip
        assert set(found) == {
            *("name", "modle", "model.name", "model.dtype", "task.dataset", "task.txt", "space.methods.lorra"),
            *(
                "space.methods.lora",
                "space.hybrids.0",
                "objectives.0",
                "objectives.1",
                "budgets.memry",
                "budgets.trials",
            ),
            *("search.samplr", "search.sampler", "search.early_stopping.etaa"),
        }
        assert found["model.name"] == "is missing"
        for path, word in {
            "modle": "model", "task.txt": "text", "space.methods.lorra": "lora", "objectives.0": "maximize",
            "objectives.1": "accuracy", "budgets.memry": "memory", "search.samplr": "sampler",
            "search.early_stopping.etaa": "eta", "task.dataset": "builtin:trec",
        }.items():  # fmt: skip
            assert f"did you mean '{word}'" in found[path], path

    def test_the_message_lists_every_path(self) -> None:
        with pytest.raises(SpecError) as refused:
            parse({"name": "x", "model": "m"}, "study.yaml")
        assert str(refused.value) == "study.yaml: 1 problem\n  task: is missing"

    @pytest.mark.parametrize("data", [None, 3, "lora", [], ["name"]])
    def test_what_is_no_mapping(self, data: object) -> None:
        assert "expected a mapping with 'name', 'model', 'task'" in problems(data)[""]

    @pytest.mark.parametrize(
        ("path", "value", "word"),
        [
            ("search.seed", True, "integer"),
            ("search.seed", "8", "integer"),
            ("search.seed", 1.5, "integer"),
            ("search.seed", -1, "0"),
            ("training.epochs", True, "number"),
            ("training.epochs", "2", "number"),
            ("training.epochs", math.nan, "finite"),
            ("training.epochs", math.inf, "finite"),
            ("training.batch_size", 0, "1"),
            ("task.splits.validation", math.nan, ""),
            ("task.splits.validation", 1.5, ""),
            ("task.text", ["a", "b", "c"], "2"),
            ("resources.cpus", 0, "0"),
            ("budgets.trials", True, "whole number"),
            ("budgets.trials", "lots", "whole number"),
            ("budgets.memory", "2GB2", "units"),
            ("budgets.trainable_params", "200%", "100%"),
            ("name", "", ""),
            ("name", "../up", ""),
            ("name", "x" * 65, ""),
            ("name", 3, "string"),
            ("model", None, ""),
            ("synthetic.faults.lora", "explode", "'raise', 'nan'"),
            ("search.references", ["full", "haed"], "'head'"),
        ],
    )
    def test_a_value_of_another_kind(self, path: str, value: object, word: str) -> None:
        found = problems(change(path, value))
        assert all(where.startswith(path) for where in found)
        assert any(word in message for message in found.values())

    @pytest.mark.parametrize(
        ("objectives", "message"),
        [
            ([{"minimize": "accuracy"}], "better the higher it is; write 'maximize: accuracy'"),
            ([{"maximize": "accuracy"}, {"maximize": "accuracy"}], "listed twice"),
            ([{"minimize": "trainable_params"}], "at least one objective must be about quality"),
            ([], ""),
            (
                [{"maximize": name} for name in ("accuracy", "macro_f1")]
                + [{"minimize": name} for name in ("nll", "ece")],
                "3",
            ),
            ([{"maximize": 3}], "string"),
            ([{"maximize": "accuracy", "minimize": "nll"}], "unknown key"),
            (["accuracy"], ""),
        ],
    )
    def test_objectives_that_make_no_sense(self, objectives: list[object], message: str) -> None:
        found = problems({**LEAST, "objectives": objectives})
        assert all(where.startswith("objectives") for where in found)
        assert message in " ".join(found.values())

    def test_shares_that_are_too_much(self) -> None:
        splits = {"train": 0.5, "validation": 0.3, "test": 0.3}
        assert "add up to 1.1" in problems({**LEAST, "task": {"dataset": "x", "splits": splits}})["task.splits"]

    @given(STRANGE)
    def test_nothing_but_a_spec_error_comes_out(self, data: object) -> None:
        with pytest.raises(SpecError):
            parse(data)

    @given(st.sampled_from(list(StudySpec.model_fields)), STRANGE)
    def test_a_strange_section_is_read_or_refused_at_its_path(self, section: str, value: object) -> None:
        try:
            paths = [parse({**FULL, section: value}).name and section]
        except SpecError as error:
            paths = [one.path for one in error.problems]
        assert all(path.startswith(section) or not path for path in paths)


YAML = "name: demo\nmodel: builtin:minilm-l6\ntask: builtin:trec\n"


def yaml_problem(text: str) -> str:
    with pytest.raises(SpecError) as refused:
        read_text(text)
    return "; ".join(map(str, refused.value.problems))


class TestYaml:
    @pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", ".0001", "1.0e-4"])
    def test_powers_of_ten_are_numbers(self, text: str) -> None:
        spec = read_text(f"{YAML}space: {{methods: {{lora: {{learning_rate: [{text}, 0.01]}}}}}}\n")
        assert spec.space.methods is not None
        assert spec.space.methods["lora"].learning_rate == (1e-4, 0.01)

    @pytest.mark.parametrize("word", ["no", "yes", "on", "off", "Y", "2024-01-01", "1:30", "0x10", "1_000", "0o7"])
    def test_words_that_only_look_like_something_else_are_text(self, word: str) -> None:
        spec = read_text(f"{YAML}".replace("task: builtin:trec", f"task: {{dataset: x, label: {word}}}"))
        assert spec.task.label == word

    def test_json_is_yaml(self) -> None:
        assert read_text(json.dumps(LEAST)) == read_text(YAML) == parse(LEAST)

    def test_text_in_quotes_is_text(self) -> None:
        assert "search.seed" in yaml_problem(f"{YAML}search: {{seed: '8'}}")

    @pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
    def test_numbers_that_are_not_finite(self, value: str) -> None:
        assert "training.epochs" in yaml_problem(f"{YAML}training: {{epochs: {value}}}")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (f"{YAML}name: again\n", "line 4, column 1: the key 'name' stands twice"),
            (f"{YAML}budgets: {{trials: 3, trials: 4}}\n", "the key 'trials' stands twice"),
            (f"{YAML}3: x\n", "the key 3 is not text"),
            (f"{YAML}space: &a {{}}\nsearch: *a\n", "line 4: anchors and aliases are not allowed"),
            (f"{YAML}space: *a\n", "line 4: anchors and aliases are not allowed"),
            ("a: &a [x]\nb: &b [*a, *a]\n", "anchors and aliases are not allowed"),
            (f"{YAML}space: {'[' * 21}{']' * 21}\n", "nested deeper than 20"),
            ("[" * 100_000, "nested deeper than 20"),
            (f"{YAML}space: !!python/object:os.system {{}}\n", "tags are not allowed"),
            (f"{YAML}space: !!float abc\n", "line 4: tags are not allowed"),
            (f"{YAML}space: !!timestamp abc\n", "tags are not allowed"),
            (f"{YAML}search: {{seed: {'9' * 5000}}}\n", "a number of 5000 characters"),
            (f"{YAML}---\nname: other\n", "line 4, column 1: but found another document"),
            (f"{YAML}space: [", "line 5, column 1"),
            (f"{YAML}\tx: 1\n", "line 4"),
            ("", "expected a mapping"),
            ("just text", "expected a mapping"),
            ("name: \x07", "not allowed"),
            ("name: \ud800", "half a character"),
            ("#" * (MOST_BYTES + 1), "larger than 256 KiB"),
        ],
    )
    def test_what_is_refused_with_its_place(self, text: str, message: str) -> None:
        assert message in yaml_problem(text)

    @given(st.text(max_size=80))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with pytest.raises(SpecError):
            read_text(text)

    def test_a_file_that_is_not_there_or_not_text(self, tmp_path) -> None:
        with pytest.raises(SpecError, match="cannot be read"):
            read_file(tmp_path / "gone.yaml")
        (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SpecError, match=r"binary\.yaml: 1 problem\n  cannot be read"):
            read_file(tmp_path / "binary.yaml")

    def test_a_file_names_itself_in_its_problems(self, tmp_path) -> None:
        (tmp_path / "study.yaml").write_text("name: demo\n")
        with pytest.raises(SpecError, match=r"study\.yaml: 2 problems"):
            read_file(tmp_path / "study.yaml")


def test_an_objective_about_subgroups_needs_some() -> None:
    asked = change("objectives", [{"minimize": "worst_subgroup_nll"}])
    assert "name their column in task.subgroup" in problems(asked)["objectives"]
    for key, value in (("subgroup", "source"), ("length_bands", 3)):
        task = (
            {**asked["task"], key: value} if isinstance(asked["task"], dict) else {"dataset": asked["task"], key: value}
        )
        assert parse(asked | {"task": task}).objectives[0].metric == "worst_subgroup_nll"


@pytest.mark.parametrize("kind", ["regression", "generation", "multi_label"])
def test_tasks_that_are_not_classification_are_refused(kind: str) -> None:
    asked = change("task", {"dataset": "builtin:trec", "type": kind})
    assert "text_classification" in problems(asked)["task.type"]
