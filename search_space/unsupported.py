"""Types of peft that cannot be searched, with the reason: asked for by name, they are refused with it."""

from __future__ import annotations

from collections.abc import Mapping

UNSUPPORTED: Mapping[str, str] = {
    "adamss": "its size depends on how the weights cluster, so it cannot be counted before training",
    "adaption_prompt": "it is made for causal language models of few families, and has no classifiers",
    "cpt": "it needs the tokens of example prompts, and a causal language model",
    "frod": "its joint decomposition of the weights decides its size, so it cannot be counted before training",
    "multitask_prompt_tuning": "it needs the number of the task with every input; a study has one task",
    "olora": "peft starts it by writing into the weights themselves, which all candidates of a study share",
    "poly": "it needs the number of the task with every input; a study has one task",
    "shadow": "it is made for causal language models",
    "shira": "its memory cannot be predicted from shapes; mask(criterion=random) trains the same kind of weights",
    "trainable_tokens": "it trains rows of the embedding for tokens that are named one by one, and names none itself",
    "xlora": "it mixes adapters that were trained before, and a search starts without any",
}
