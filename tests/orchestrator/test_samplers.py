"""Samplers draw what a trial needs, and the same again from the same seed."""

import optuna
import pytest

from orchestrator.samplers import derived_seed
from orchestrator.samplers.nsga2 import Children
from orchestrator.samplers.tpe import StagedTPE, _owner, build


class Recorded(StagedTPE):
    """Notes which groups are drawn together."""

    def sample_relative(self, study, trial, search_space):
        drawn = super().sample_relative(study, trial, search_space)
        if search_space:
            self.groups = [*getattr(self, "groups", []), sorted(drawn)]
        return drawn


def draw(trial: optuna.Trial, kind: str | None = None) -> None:
    kind = kind or trial.suggest_categorical("composition", ["a", "b", "a + b"])
    for label in kind.split(" + "):
        trial.suggest_int(f"{label}.size.index", 0, 5)
        trial.suggest_float(f"{label}.learning_rate", 1e-4, 1e-1, log=True)
        trial.suggest_categorical(f"{label}.place", ["everywhere"])


def study_of(count: int) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(count):
        study.sampler = optuna.samplers.RandomSampler(seed=derived_seed(0, number))
        trial = study.ask()
        draw(trial)
        study.tell(trial, [number % 7, number % 5])
    return study


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("composition", "composition"),
        ("lora.learning_rate", "lora"),
        ("lora.r.index", "lora"),
        ("lora.2.r.index", "lora.2"),
    ],
)
def test_whose_a_parameter_is(name, owner):
    assert _owner(name) == owner


def test_a_method_is_drawn_as_a_whole_and_only_when_it_is_needed():
    study = study_of(20)
    sampler = Recorded(seed=0, n_startup_trials=10, multivariate=True, constant_liar=True)
    study.sampler = sampler
    draw(study.ask(), "b")
    assert sampler.groups == [["b.learning_rate", "b.size.index"]]
    draw(study.ask(), "a + b")
    assert sampler.groups[1:] == [["a.learning_rate", "a.size.index"], ["b.learning_rate", "b.size.index"]]


def test_a_child_of_nsga2_is_crossed_from_two_parents_and_one_parameter_of_it_is_mutated():
    parents = [one for one in study_of(40).get_trials() if one.params["composition"] in ("a", "a + b")]
    make, study = Children(0), study_of(0)
    children = [make(study, {}, parents) for _ in range(300)]
    whole = [one for one in children if one.get("composition") == "a + b" and len(one) == 7]
    assert whole
    for child in whole:
        assert all(any(one.params.get(name) == value for one in parents) for name, value in child.items())
    assert any(not any(child == one.params for one in parents) for child in whole)
    sizes = [7 - len(one) for one in children if any(name.startswith("b.") for name in one)]
    assert 0.7 < sum(sizes) / len(sizes) < 1.3
    assert {len(one.params) for one in parents} == {4, 7}


def test_the_better_of_two_parents_is_crossed_more_often():
    parents = study_of(2).get_trials()
    better = next(one for one in parents if one.values == [1.0, 1.0])
    worse = next(one for one in parents if one.values == [0.0, 0.0])
    worse.values = [0.0, 5.0]
    make, study = Children(0), study_of(0)
    firsts = [make._winner(study, [better, worse]) for _ in range(400)]
    assert 0.65 < sum(one is better for one in firsts) / 400 < 0.85


def test_children_of_parents_without_parameters_are_drawn():
    assert Children(0)(study_of(0), {}, [optuna.trial.create_trial(values=[1.0, 1.0])]) == {}


@pytest.mark.parametrize("count", [0, 5, 30])
def test_the_same_seed_draws_the_same_again(count):
    study = study_of(count)
    drawn = []
    for _ in range(2):
        study.sampler = build(derived_seed(3, count), 10)
        trial = study.ask()
        draw(trial)
        drawn.append(trial.params)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert drawn[0] == drawn[1]
