"""One candidate in, one Score out: the backbone, attaching, costing, training by rungs, measuring."""
