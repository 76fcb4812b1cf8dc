"""What every test stands on: no hub, no deadline for a property test on a machine that is busy."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("paretune", deadline=None)
settings.load_profile("paretune")
