"""The script that stands in every export: it trains the candidate again from its description alone."""

TRAIN_SCRIPT = '''"""Train this candidate again: same data, same seed, same numbers on the same machine.

    pip install paretune
    python train.py [--seed 7] [--to FOLDER]

Everything that it needs is in paretune.json beside it: no study, no storage and no service is asked.
"""

import argparse
import json
import tempfile
from pathlib import Path

from calibration.spec import CalibrationSpec
from evaluators.backbone import load_tokenizer
from evaluators.data import read_task
from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec, TaskSpec, TrainingSpec
from evaluators.tokens import write_tokens
from evaluators.trained import TrainedEvaluator
from search_space.candidate import Candidate

HERE = Path(__file__).resolve().parent


def main() -> None:
    about = json.loads((HERE / "paretune.json").read_text())
    parser = argparse.ArgumentParser(description=f"Train {about['notation']}")
    parser.add_argument("--seed", type=int, default=about["seed"])
    parser.add_argument("--to", type=Path, default=Path("trained"))
    given = parser.parse_args()

    read = lambda kind, key: kind.model_validate_json(json.dumps(about[key]))  # noqa: E731
    model, training = read(ModelSpec, "model"), read(TrainingSpec, "training")
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens(read_task(read(TaskSpec, "task")), load_tokenizer(model), training, Path(folder))
        if tokens.sha256 != about["data_sha256"]:
            print("note: the data are not the ones that it was trained on")
        spec = EvaluatorSpec(model, training, read(CalibrationSpec, "calibration"), folder, about["steps"])
        run = TrainedEvaluator(spec).start(Candidate.from_json(about["candidate"]), given.seed)
        score = run.advance(about["steps"])
        run.save(given.to)
    for name, value in score.values.items():
        recorded = about["validation"]["metrics"].get(name, {}).get("value", float("nan"))
        print(f"{name:24} {value:14.6g}   recorded {recorded:.6g}")
    print(f"the trained state is in {given.to}")


if __name__ == "__main__":
    main()
'''
