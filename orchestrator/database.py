"""The database under the storage: connected, tuned, and locked where several machines share it."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from sqlalchemy import event, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from search_space.errors import InstallationError, StudyError, StudyLockedError

_MOST_CONNECTS = 5
_BACKENDS = ("sqlite", "postgresql")


def connect(url: str) -> optuna.storages.RDBStorage:
    """Connect, and create the tables. Two processes that create them at once trip over each other: so again.

    Args:
        url: SQLAlchemy's URL of a SQLite or a PostgreSQL database; `postgresql://` means `postgresql+psycopg://`.

    Raises:
        StudyError: The URL names another kind of database, or none; or the server does not answer.
        InstallationError: PostgreSQL's driver is not installed.
    """
    url = _with_driver(url)
    sqlite = make_url(url).get_backend_name() == "sqlite"
    kwargs: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    rdb = _connected(url, kwargs)
    if sqlite:
        event.listen(rdb.engine, "connect", _write_ahead)
        rdb.engine.dispose()
    return rdb


@contextmanager
def hold(engine: Engine, name: str) -> Iterator[None]:
    """Hold a study's lock in a PostgreSQL database, as long as this process is connected.

    A SQLite file is used from one machine, where the lock in the home is enough.

    Raises:
        StudyLockedError: Another process holds it, on whichever machine.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    key = int.from_bytes(hashlib.sha256(f"paretune/{name}".encode()).digest()[:8], "big", signed=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            raise StudyLockedError(f"study {name!r} is being run by another process, perhaps on another machine")
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def _with_driver(url: str) -> str:
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError:
        backend = ""
    if backend not in _BACKENDS:
        raise StudyError(
            "PARETUNE_STORAGE is no URL of a database: sqlite:////folder/file.db, or postgresql://host/name"
        )
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _connected(url: str, kwargs: dict[str, Any]) -> optuna.storages.RDBStorage:
    try:
        for _ in range(_MOST_CONNECTS - 1):
            with suppress(SQLAlchemyError):
                return optuna.storages.RDBStorage(url, engine_kwargs=kwargs)
            time.sleep(0.5 * random.random())  # noqa: S311  (no secret: only so that they do not meet again)
        return optuna.storages.RDBStorage(url, engine_kwargs=kwargs)
    except (ImportError, NoSuchModuleError) as error:
        raise InstallationError("PostgreSQL's driver is not installed: pip install 'paretune[service]'") from error


def _write_ahead(connection: Any, _record: Any) -> None:
    """SQLite: a write-ahead log keeps every acknowledged write through a killed process, at one sync a checkpoint."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
