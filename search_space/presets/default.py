"""A spread over the families: low rank, scales, biases, norms, adapters, prefixes, and hybrids of two."""

from typing import Any

PRESET: dict[str, Any] = {
    "methods": {
        "lora": {"alpha": [16, 32]},
        "serial_adapter": {"activation": ["relu"]},
        "ia3": {},
        "bitfit": {},
        "ln_tuning": {},
        "vera": {},
        "prefix_tuning": {},
    },
    "hybrids": ["lora + bitfit", "serial_adapter + bitfit", "lora + serial_adapter", "lora + prefix_tuning"],
}
