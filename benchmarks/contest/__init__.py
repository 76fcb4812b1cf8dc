"""The contest: searches beside each other on tables of trained candidates, at equal training steps.

    python -m benchmarks.contest run [--task trec] [--seeds 20] [--searchers NAME ...]   # goes on where it stopped
    python -m benchmarks.contest report                                                # tables and pictures from it
    python -m benchmarks.contest --quick                                               # a minute, nothing is written

A search spends training steps and learns what the table holds: a candidate's metrics on validation, at each rung up to
which it trains it. Only candidates that were trained to the end count. What a search picks by validation is judged on
test. A draw that is not in the table is answered by the nearest point that the search has not tried, and the sampler is
told that point's own parameters (`search_space/points.py`): all searches are treated so.

Beside the contest over fronts there are: the same in AutoPEFT's own space; the best accuracy under a budget of
parameters; fixed architectures, each at its best of several learning rates; the front of one task on the other.
"""
