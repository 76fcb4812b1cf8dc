"""A trained candidate in a folder of peft's, as peft itself writes it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from evaluators.attach import Attached
from evaluators.backbone import Backbone
from evaluators.exported import as_peft_model
from evaluators.specimens import tiny


def save_with_peft(attached: Attached, architecture: str, folder: Path) -> Backbone:
    """Save a trained candidate of a tiny model. Returns the backbone that it belongs to."""
    model, anatomy = tiny(architecture)
    backbone = Backbone(model, None, torch.device("cpu"), torch.float32)
    held = as_peft_model(backbone, anatomy, attached.candidate, attached.state(backbone.storages), "tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no model of this name to compare vocabularies with
        held.save_pretrained(folder)
    return backbone
