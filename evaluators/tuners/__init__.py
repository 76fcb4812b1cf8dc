"""PEFT tuners of Paretune's own, registered with `peft` on import.

Each tuner is a folder, found by being there, laid out as peft lays out its own: `config.py`, `layer.py`, `model.py`.
Importing this package is enough for `peft.get_peft_model`, `peft.inject_adapter_in_model` and
`peft.PeftModel.from_pretrained` to know them.
"""

from evaluators.tuners.registration import register

register()

__all__ = ["register"]
