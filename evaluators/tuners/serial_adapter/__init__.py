"""Serial bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2021)."""

from evaluators.tuners.serial_adapter.config import SerialAdapterConfig
from evaluators.tuners.serial_adapter.layer import SerialAdapterLayer
from evaluators.tuners.serial_adapter.model import SerialAdapterModel

__all__ = ["SerialAdapterConfig", "SerialAdapterLayer", "SerialAdapterModel"]
