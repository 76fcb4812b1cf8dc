"""LoRA alone: what people search by hand today."""

from typing import Any

PRESET: dict[str, Any] = {"methods": {"lora": {}}, "hybrids": []}
