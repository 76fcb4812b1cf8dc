"""Small data and shift: how calibration depends on data, method and domain, and what searching for it gains.

    python -m benchmarks.small_data train       # appends to results/small_data/TASK.jsonl; go on with the same command
    python -m benchmarks.small_data report      # results/small_data.json, figures, and the section of RESULTS.md

Two tasks on MiniLM-L6: TREC's question types (six classes) and the sentiment of film reviews, which is also judged on
product reviews, editorials and tweets. Training is short on purpose, so that all of it costs about an hour and a half
of one core: 50 steps of 16 examples for 50 examples, 100 for 200, 150 for 1,000, 250 for 5,000. Arithmetic is
bfloat16 under autocast; trained weights are float32. Learning rates are the methods' defaults.
"""
