"""Tensors of torch that have shapes and no memory, and say nothing of what cannot be done with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Run with fake tensors. What fails raises; torch would write its traceback to the terminal as well."""
    said = logging.getLogger("torch._subclasses.fake_tensor")
    was = said.disabled
    said.disabled = True
    try:
        with _masks_as_in_training(), FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        said.disabled = was


@contextmanager
def _masks_as_in_training() -> Iterator[None]:
    """Let models leave out masks that mask nothing: transformers keeps them where it sees that tensors are fake.

    Whether one masks nothing is asked of its values then (`unknown_values`).
    """
    library: Any = masking_utils
    was = library.is_tracing
    library.is_tracing = lambda _tensor=None: was()
    try:
        yield
    finally:
        library.is_tracing = was
