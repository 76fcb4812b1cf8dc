"""Energy, where the device has a meter: the processor's own counters (RAPL), or those of an NVIDIA GPU (NVML).

A meter counts the whole device: what idles and what else runs on it is counted too. So a study that is about energy
runs one trial at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from search_space.errors import UnsupportedError

POWERCAP = Path("/sys/class/powercap")
_COUNTED = ("package", "dram")
"""Zones that add up to the processor and its memory. Others are parts of these, or hold them."""


class Meter(Protocol):
    """Counts the energy of a device."""

    name: str

    def spent(self) -> float:
        """Return the joules since the call before, or since the meter was made."""


class RaplMeter:
    """The counters of the processor, read from the powercap files of Linux.

    They begin again at 0 after some minutes under load: read them more often than that.

    Raises:
        UnsupportedError: There are none, or this user may not read them.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        zones = sorted(path for path in folder.glob("intel-rapl:*") if (path / "energy_uj").exists())
        self._ranges = {
            zone: int((zone / "max_energy_range_uj").read_text())
            for zone in zones
            if (zone / "name").read_text().startswith(_COUNTED)
        }
        if not self._ranges:
            raise UnsupportedError(f"the processor shows no energy counter in {folder}")
        try:
            self._last = self._read()
        except PermissionError as error:
            raise UnsupportedError(
                f"the processor's energy counter may not be read by this user ({error.filename}); an administrator "
                "can allow it: chmod a+r that file"
            ) from None
        self.name = f"RAPL, {len(self._ranges)} zones"

    def spent(self) -> float:
        """Return the joules since the call before."""
        now = self._read()
        moved = sum((now[zone] - self._last[zone]) % self._ranges[zone] for zone in now)
        self._last = now
        return moved / 1e6

    def _read(self) -> Mapping[Path, int]:
        return {zone: int((zone / "energy_uj").read_text()) for zone in self._ranges}


class NvmlMeter:
    """The counter of an NVIDIA GPU.

    Raises:
        UnsupportedError: The package nvidia-ml-py is not installed, or the GPU has no counter.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError:
            raise UnsupportedError(
                "the GPU's energy is read with nvidia-ml-py, which is not installed: pip install 'paretune[energy]'"
            ) from None
        self._nvml: Any = pynvml
        uuid = torch.cuda.get_device_properties(device).uuid
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self._last = self._read()
        except pynvml.NVMLError as error:
            raise UnsupportedError(f"the GPU shows no energy counter: {error}") from None
        self.name = "NVML"

    def spent(self) -> float:
        """Return the joules since the call before."""
        last, self._last = self._last, self._read()
        return (self._last - last) / 1e3

    def _read(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


def open_meter(device: torch.device, folder: Path = POWERCAP) -> Meter:
    """Return the meter of a device. Raises UnsupportedError where it has none; the message says why."""
    return NvmlMeter(device) if device.type == "cuda" else RaplMeter(folder)


def meter_if_any(device: torch.device, folder: Path = POWERCAP) -> Meter | None:
    """Return the meter of a device, or None."""
    try:
        return open_meter(device, folder)
    except UnsupportedError:
        return None
