# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions that mlxtrace probes are in a built module, and in which form.

The symbol table says what a probe can sit on; the debug information says where the compiler put
copies of a function instead of calls, which no probe sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genbindings.dwarf import subprograms
from mlxpatch import modinfo
from mlxtrace import catalogue

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from mlxtrace.catalogue import Probe

State = Literal["present", "partly inlined", "renamed", "inlined", "absent", "elsewhere"]
# What GCC and clang append to the name of a function that they changed.
_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|lto_priv|llvm)\b.*")


@dataclass(frozen=True)
class Target:
    """What became of a probe's function.

    Attributes:
        probe: the probe's name in the catalogue.
        symbol: the function, the best one of those that the probe can sit on.
        module: the module that has it.
        state: ``elsewhere`` where that module is not among the built ones.
        detail: the symbol that is there instead, or the functions that it is inlined into.
        loses: what the output lacks without the probe; empty where the probe works.
    """

    probe: str
    symbol: str
    module: str
    state: State
    detail: str
    loses: str

    @property
    def works(self) -> bool:
        """Whether the probe sees every call, as far as is known here."""
        return self.state in ("present", "elsewhere")


def probes(modules: Iterable[Path], catalog: Collection[Probe] = catalogue.PROBES) -> list[Target]:
    """Return what became of the functions of every probe in ``modules``.

    Raises:
        Error: a module cannot be read or has no debugging information.
    """
    found = {module.name: module for module in map(modinfo.read, modules)}
    targets = []
    for probe in catalog:
        module = found.get(probe.module)
        if module is None:
            targets.append(
                Target(probe.name, probe.symbols[0], probe.module, "elsewhere", "not rebuilt", "")
            )
        else:
            targets.append(_target(probe, module))
    return targets


_ORDER: dict[State, int] = {
    "present": 0,
    "partly inlined": 1,
    "renamed": 2,
    "inlined": 3,
    "absent": 4,
}


def _target(probe: Probe, module: modinfo.Module) -> Target:
    sources = subprograms.functions(module.path, probe.symbols)
    answers = [_state(symbol, module.functions, sources.get(symbol)) for symbol in probe.symbols]
    symbol, (state, detail) = min(
        zip(probe.symbols, answers, strict=True), key=lambda item: _ORDER[item[1][0]]
    )
    loses = "" if state == "present" else probe.loses
    return Target(probe.name, symbol, probe.module, state, detail, loses)


def _state(
    symbol: str, table: Collection[str], source: subprograms.Function | None
) -> tuple[State, str]:
    callers = ", ".join(sorted(source.inlined_into)) if source else ""
    if symbol in table:
        return ("partly inlined", f"into {callers}") if callers else ("present", "")
    renamed = sorted(name for name in table if _SUFFIX.sub("", name) == symbol and name != symbol)
    if renamed:
        return "renamed", renamed[0]
    if callers:
        return "inlined", f"into {callers}"
    return ("inlined", "by the compiler") if source else ("absent", "")
