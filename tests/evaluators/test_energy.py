"""Meters: counters that begin again, files that may not be read, a GPU's counter, and what a trial is charged for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluators.energy import NvmlMeter, RaplMeter, meter_if_any, open_meter
from evaluators.trained import TrainedEvaluator
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec

CPU = torch.device("cpu")
RANGE = 1_000_000_000


def zone(folder: Path, number: str, name: str, microjoules: int) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir()
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return path


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two processors; the first has its cores and its memory apart, and the machine has a counter of everything."""
    for number, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "package-1"), ("2", "psys")):
        zone(tmp_path, number, name, 500)
    return tmp_path


def test_processors_and_their_memory_are_counted_once(powercap: Path) -> None:
    meter = RaplMeter(powercap)
    for path in powercap.iterdir():
        (path / "energy_uj").write_text("2000500")
    assert meter.spent() == pytest.approx(3 * 2.0)
    assert meter.spent() == 0.0


def test_a_counter_that_began_again_goes_on(powercap: Path) -> None:
    meter = RaplMeter(powercap)
    (powercap / "intel-rapl:1" / "energy_uj").write_text(str(RANGE - 1_000_000))
    meter.spent()
    (powercap / "intel-rapl:1" / "energy_uj").write_text("2000000")
    assert meter.spent() == pytest.approx(3.0)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"no energy counter in {tmp_path}"):
        open_meter(CPU, tmp_path)
    assert meter_if_any(CPU, tmp_path) is None


def test_a_counter_that_may_not_be_read_says_how_it_may(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def refusing(path: Path, *args: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refusing)
    with pytest.raises(UnsupportedError, match=r"may not be read by this user \(.*energy_uj\).*chmod a\+r"):
        RaplMeter(powercap)


def test_a_gpu_counts_in_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([1_000, 4_500])
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counts) if handle == "GPU-12ab" else 0,
        NVMLError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12ab"))
    assert NvmlMeter(torch.device("cuda")).spent() == 3.5


def test_a_gpu_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'paretune\[energy\]'"):
        NvmlMeter(torch.device("cuda"))


class Counting:
    """A meter that counts two joules at each look."""

    name = "counting"

    def spent(self) -> float:
        return 2.0


def test_a_candidate_is_charged_for_its_steps(tmp_path: Path) -> None:
    evaluator = TrainedEvaluator(evaluator_spec(tmp_path, num_labels=3))
    evaluator.meter = Counting()
    run = evaluator.start(parse("lora(r=2)"), 0)
    assert "training_joules" not in run.advance(4).values
    assert run.advance(12)["training_joules"] == 2.0 * 12, "what passed between rungs is not charged"
