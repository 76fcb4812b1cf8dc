"""The PEFT-search table: hundreds of candidates, each trained to the end, with every metric at every rung.

    python -m benchmarks.table draw                      # once: fixes the candidates
    python -m benchmarks.table train [--shard 1/2]       # hours; in the order of plan.py, goes on where it stopped
    python -m benchmarks.table status                    # how far it is

Searches are compared on it (`benchmarks.contest`): what takes them hours takes seconds there.
"""
