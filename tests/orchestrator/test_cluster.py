"""A study on a real cluster of two nodes: two `ray start` on this machine, each with a core of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from orchestrator.storage import Storage

pytestmark = pytest.mark.slow

STUDY = {
    "name": "two-nodes",
    "model": "-",
    "task": "-",
    "synthetic": {"step_seconds": 0.01},
    "training": {"steps": 90},
    "space": {"methods": {"lora": {}, "ia3": {}, "bitfit": {}}},
    "budgets": {"trials": 16},
    "search": {"finalists": {"count": 1, "seeds": 2}},
}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
_WATCH = """
import json, sys, time, ray
from ray._private.state import actors
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
end, nodes, seen = time.monotonic() + float(sys.argv[2]), set(), {}
while time.monotonic() < end or not nodes:
    nodes = {one["NodeID"] for one in ray.nodes() if one["Alive"]}
    seen |= {one["Address"]["NodeID"]: one["ActorClassName"] for one in actors().values() if one["State"] == "ALIVE"}
    print(json.dumps({"alive": sorted(nodes), "seen": seen}), flush=True)
    time.sleep(0.5)
"""
"""Tells again and again which nodes there are, and which ones have had actors."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two nodes with one core each; both end with the module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path("/tmp") / f"two-nodes-{port}"  # sockets need short names
    with _node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"):
        _wait_for(f"127.0.0.1:{port}", nodes=1)
        with _node(f"--address=127.0.0.1:{port}"):
            _wait_for(f"127.0.0.1:{port}", nodes=2)
            yield f"127.0.0.1:{port}"
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _node(*options: str) -> Iterator[None]:
    ray = Path(sys.executable).parent / "ray"
    command = [str(ray), "start", "--block", "--num-cpus=1", "--object-store-memory=100000000", *options]
    quiet = subprocess.DEVNULL
    node = subprocess.Popen(command, env=ENVIRONMENT, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


def _watch(address: str, seconds: float) -> list[str]:
    return [sys.executable, "-c", _WATCH, address, str(seconds)]


def _wait_for(address: str, nodes: int) -> None:
    end = time.monotonic() + 180
    while True:
        done = subprocess.run(_watch(address, 0), env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode == 0 and len(json.loads(done.stdout.splitlines()[-1])["alive"]) >= nodes:
            return
        assert time.monotonic() < end, f"{nodes} nodes did not come up: {done.stderr[-500:]}"
        time.sleep(1)


def test_a_study_uses_both_nodes_of_a_cluster(address: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    env = {**ENVIRONMENT, "RAY_ADDRESS": address, "PARETUNE_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(file)]
    watching = subprocess.Popen(_watch(address, 600), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
    finally:
        watching.terminate()
    assert done.returncode == 0, done.stderr[-2000:]
    told, _ = watching.communicate()

    store = Storage(f"sqlite:///{tmp_path}/home/paretune.db").open("two-nodes")
    trials = [one for phase in ("search", "references", "finalists") for one in store.trials(phase)]
    assert store.noted("status") == "complete"
    assert not [one for one in trials if not one.is_settled or one.state == "failed"]
    assert [one for one in trials if one.has_paused and one.state == "complete"], "who pauses goes on, on any node"
    assert sum(one.state != "infeasible" for one in store.trials()) == 16
    assert max(Counter(one.candidate.sha256 for one in store.trials() if one.state != "infeasible").values()) == 1

    last = json.loads(told.splitlines()[-1])
    assert len(last["alive"]) == 2
    assert set(last["seen"]) == set(last["alive"]), last
