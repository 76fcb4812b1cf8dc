"""Our tuners are known to peft, once, and only to a peft that they were written for."""

from __future__ import annotations

import copy
import pickle

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from evaluators.tuners.registration import TUNERS, register, require_supported_peft
from search_space.errors import InstallationError


def test_registering_again_changes_nothing() -> None:
    before = list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING)
    register()
    assert (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING)) == before


@pytest.mark.parametrize(("name", "config_class", "model_class"), TUNERS)
def test_a_tuner_stands_in_every_mapping(name: str, config_class: type, model_class: type) -> None:
    member = getattr(PeftType, name.upper())
    assert PeftType(name.upper()) is member is PeftType[name.upper()]
    assert member in PeftType
    assert member in list(PeftType)
    assert pickle.loads(pickle.dumps(member)) is member is copy.deepcopy(member)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is config_class
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is model_class
    assert PEFT_TYPE_TO_PREFIX_MAPPING[member] == model_class.prefix


def test_a_configuration_makes_a_round_trip_through_its_file(case, backbone, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = case.config(backbone)
    config.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize("version", ["0.20.0", "0.22.0", "1.0"])
def test_another_peft_is_refused(version: str) -> None:
    with pytest.raises(InstallationError, match=rf"peft {version} is installed.*pip install"):
        require_supported_peft(version)
