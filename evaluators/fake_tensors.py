"""Tensors of torch that have shapes and no memory, and say nothing of what cannot be done with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Run with fake tensors. What fails raises; torch would write its traceback to the terminal as well."""
    said = logging.getLogger("torch._subclasses.fake_tensor")
    was = said.disabled
    said.disabled = True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        said.disabled = was
