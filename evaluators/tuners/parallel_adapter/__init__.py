"""Parallel and scaled parallel bottleneck adapters (He et al. 2022)."""

from evaluators.tuners.parallel_adapter.config import ParallelAdapterConfig
from evaluators.tuners.parallel_adapter.layer import ParallelAdapterLayer
from evaluators.tuners.parallel_adapter.model import ParallelAdapterModel

__all__ = ["ParallelAdapterConfig", "ParallelAdapterLayer", "ParallelAdapterModel"]
