"""Measurements: each module is one benchmark, writes `results/NAME.json`, and one section of `RESULTS.md`."""
