"""Types of peft that cannot be searched, with the reason: asked for by name, they are refused with it."""

from __future__ import annotations

from collections.abc import Mapping

UNSUPPORTED: Mapping[str, str] = {
    "cpt": "it needs the tokens of example prompts, and a causal language model",
    "shadow": "it is made for causal language models",
    "trainable_tokens": "it trains rows of the embedding for tokens that are named one by one, and names none itself",
    "xlora": "it mixes adapters that were trained before, and a search starts without any",
}
