"""Makes our tuners known to peft: its enumeration of types, and its four mappings."""

from __future__ import annotations

import importlib
import pkgutil

import peft
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method

from search_space.errors import InstallationError

OLDEST_PEFT = (0, 21)
"""First version whose tuners translate state dict keys (`BaseTuner._remove_adapter_name_from_key`)."""

FIRST_UNKNOWN_PEFT = (0, 22)
"""Not read yet. The enumeration is extended from outside, so a version is read before it is admitted."""

Tuner = tuple[str, type[PeftConfig], type[BaseTuner]]


def found() -> tuple[Tuner, ...]:
    """Return every tuner of ours by name: each folder beside this file gives a configuration and a model.

    Raises:
        TypeError: A folder does not name one of each, or the configuration's METHOD is not the folder's name.
    """
    package = importlib.import_module("evaluators.tuners")
    return tuple(_tuner(one.name) for one in sorted(pkgutil.iter_modules(package.__path__)) if one.ispkg)


def _tuner(name: str) -> Tuner:
    module = importlib.import_module(f"evaluators.tuners.{name}")
    named = [one for word in module.__all__ if isinstance(one := getattr(module, word), type)]
    configs = [one for one in named if issubclass(one, PeftConfig) and getattr(one, "METHOD", "") == name]
    models = [one for one in named if issubclass(one, BaseTuner)]
    if len(configs) != 1 or len(models) != 1:
        raise TypeError(
            f"evaluators/tuners/{name}: its __all__ names {len(models)} models and {len(configs)} configurations with "
            f"METHOD = {name!r}; it needs one of each"
        )
    return name, configs[0], models[0]


TUNERS = found()
"""Name, configuration and model of every tuner of ours."""


def register() -> None:
    """Register every tuner of ours with peft. Calling it again changes nothing.

    Raises:
        InstallationError: The installed peft is outside the supported range, or has a method of one of our
            names itself.
    """
    require_supported_peft(peft.__version__)
    for name, config_class, model_class in TUNERS:
        _register_tuner(name, config_class, model_class)


def require_supported_peft(version: str) -> None:
    """Refuse a peft version that these tuners were not written against.

    Raises:
        InstallationError: The version is outside the supported range.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if not OLDEST_PEFT <= (major, minor) < FIRST_UNKNOWN_PEFT:
        wanted = f"peft>={_dotted(OLDEST_PEFT)},<{_dotted(FIRST_UNKNOWN_PEFT)}"
        raise InstallationError(
            f"peft {version} is installed, but Paretune's tuners were written for {wanted}: "
            f"run `pip install '{wanted}'`"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _register_tuner(name: str, config_class: type[PeftConfig], model_class: type[BaseTuner]) -> None:
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(name.upper())
    if registered is config_class:
        return
    if registered is not None or name.upper() in PeftType.__members__:
        raise InstallationError(
            f"peft {peft.__version__} already has a method called {name!r}, which Paretune brings itself: "
            "install a version of peft without it, or a newer Paretune"
        )
    _add_member(name.upper())
    register_peft_method(name=name, config_cls=config_class, model_cls=model_class, prefix=model_class.prefix)


def _add_member(name: str) -> None:
    """Add a member to `PeftType`, which the standard library offers no way to do.

    `register_peft_method` insists on a member of the enumeration. A member is an instance that stands in the
    three tables below; members are looked up by value there, which is also how they are unpickled.
    """
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
