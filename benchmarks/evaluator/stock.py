"""What a user would write: a function for Ray Tune that loads the model, wraps it with peft and calls `Trainer`.

Tokenised and padded to the longest length in every trial, float32, scored on validation at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from ray import tune

from benchmarks.evaluator.subject import MAX_LENGTH, Lora, task


def train(config: dict[str, Any]) -> None:
    """Train one candidate and report its accuracy: a function trainable."""
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model

    from evaluators.builtin import minilm_l6
    from evaluators.data import read_task

    torch.set_num_threads(1)
    transformers.set_seed(0)
    lora = Lora(**config["lora"])
    data = read_task(task(config["train"], config["evaluation"]))
    folder = str(minilm_l6())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def rows(role: str) -> Dataset:
        examples = data.roles[role]
        made = Dataset.from_dict({"text": [row[0] for row in examples.texts], "labels": examples.labels.tolist()})
        return made.map(
            lambda row: tokenizer(row["text"], padding="max_length", truncation=True, max_length=MAX_LENGTH),
            batched=True,
            remove_columns=["text"],
        )

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(data.classes))
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=2 * lora.rank,
        target_modules=list(lora.modules),
        layers_to_transform=lora.layers,
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = transformers.Trainer(
            model=get_peft_model(model, settings),
            args=transformers.TrainingArguments(
                output_dir=scratch,
                max_steps=config["steps"],
                per_device_train_batch_size=32,
                per_device_eval_batch_size=128,
                learning_rate=lora.rate,
                warmup_steps=max(1, round(0.06 * config["steps"])),
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=rows("train"),
            eval_dataset=rows("validation"),
            compute_metrics=lambda seen: {"accuracy": float(np.mean(seen[0].argmax(1) == seen[1]))},
        )
        trainer.train()
        tune.report({"accuracy": trainer.evaluate()["eval_accuracy"]})


def run(candidates: Sequence[Lora], steps: int, train_size: int, evaluation: int) -> list[float]:
    """Train candidates one after another on the Ray that is there. Returns their accuracies."""
    about = {"steps": steps, "train": train_size, "evaluation": evaluation}
    with tempfile.TemporaryDirectory(prefix="paretune-stock-") as folder:
        results = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={"lora": tune.grid_search([asdict(one) for one in candidates]), **about},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    if failed := [one.error for one in results if one.error]:
        raise RuntimeError(f"the stock side failed: {failed[0]}")
    return [float(one.metrics["accuracy"]) for one in results]
