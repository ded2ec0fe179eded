# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``mlxtrace doctor`` looks at in the kernel: the driver, its structs, each probe's place."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxtrace import capture, host, layout
from mlxtrace.catalogue import DRIVER, DRIVERS, VFIO, Probe, select
from mlxtrace.doctor import Finding, Verdict
from mlxtrace.fentry import OLD_LIBBPF, Fentry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlxtrace.layout import Layouts


class Driver:
    """The driver of the running kernel, or VFIO's core; its layouts are looked up once.

    Args:
        generic: examine what a trace of any driver needs, not of mlx5's.
    """

    def __init__(self, *, generic: bool = False) -> None:
        self._generic = generic
        self._module = VFIO if generic else DRIVER
        self._probes = select(generic=generic)

    @functools.cached_property
    def _layouts(self) -> Layouts:
        return layout.of_running_core() if self._generic else layout.of_running_module()

    @property
    def _loaded(self) -> bool:
        return (host.MODULES / self._module).exists()

    def module(self) -> Iterator[Finding]:
        """Whether the driver is loaded, and which build of it."""
        host.require_module(self._module)
        details = []
        for name in ("version", "srcversion"):
            try:
                text = (host.MODULES / self._module / name).read_text()
            except OSError:
                continue
            details.append(f"{name} {text.strip()}")
        told = f" ({', '.join(details)})" if details else ""
        yield Finding("module", Verdict.OK, f"{self._module} is loaded{told}")

    def layouts(self) -> Iterator[Finding]:
        """Where the offsets of the driver's fields would be taken from."""
        if not self._loaded:
            yield _not_examined("layouts", f"{self._module} is not loaded")
            return
        found = self._layouts
        yield Finding(
            "layouts", Verdict.OK, f"{len(found.offsets)} offsets from the {found.source}"
        )
        if not self._generic and not found.has_precopy_info:
            yield Finding(
                "pre-copy",
                Verdict.DEGRADED,
                "this driver has no PRE_COPY: migrations are one final SAVE",
                "Linux 6.2 and newer have it; on 6.1, mlxpatch carries it",
            )

    def program(self) -> Iterator[Finding]:
        """Whether bcc compiles the program, and the kernel takes it."""
        if host.lacking_privileges() or host.locked_down():
            yield _not_examined("program", "the kernel takes none from this process")
            return
        if not self._loaded:
            yield _not_examined("program", f"{self._module} is not loaded")
            return
        try:
            capture.load_bcc()
            found = self._layouts
        except Error:
            yield _not_examined("program", "bcc or the layouts are missing")
            return
        number = capture.rehearse(self._probes, found)
        yield Finding(
            "program", Verdict.OK, f"bcc compiles it, the kernel verified its {number} parts"
        )

    def probes(self) -> Iterator[Finding]:
        """Each probe of the catalogue: attachable, inlined, renamed, blacklisted, not loaded."""
        found = None
        if self._loaded:
            with contextlib.suppress(Error):
                found = self._layouts
        with contextlib.closing(Fentry()) as fentry:
            for probe in self._probes:
                yield _probe(probe, found.why_not(probe.name) if found else "", fentry)


def _probe(probe: Probe, lacks: str, fentry: Fentry) -> Finding:
    """Return what became of ``probe``, for which the driver may lack something."""
    topic = f"probe {probe.name}"
    if lacks:
        return Finding(topic, Verdict.DEGRADED, f"{lacks}; so {probe.loses}")
    if probe.module == DRIVERS:
        if places := host.places(probe):
            return Finding(topic, Verdict.OK, f"attachable: {', '.join(places)}")
        why, remedy = host.why_nowhere()
        return Finding(topic, Verdict.DEGRADED, f"{why}; so {probe.loses}", remedy)
    verdict = Verdict.MISSING if probe.required else Verdict.DEGRADED
    reason = ""
    for symbol in probe.symbols:
        why = host.why_absent(symbol, probe.module)
        if not why:
            return _attachable(probe, topic, symbol, fentry)
        if "not loaded" in why:
            remedy = f"modprobe {probe.module}"
            return Finding(topic, verdict, f"{symbol}: {probe.module} is not loaded", remedy)
        reason = reason or f"{symbol}: {why}"
    return Finding(topic, verdict, f"{reason}; so {probe.loses}", _remedy(reason, probe))


def _attachable(probe: Probe, topic: str, symbol: str, fentry: Fentry) -> Finding:
    if not probe.fentry:
        return Finding(topic, Verdict.OK, f"attachable: {symbol}")
    lacks = fentry.why_not(probe)
    if not lacks:
        return Finding(topic, Verdict.OK, f"attachable by fentry: {symbol}")
    if not probe.interrupt:
        said = f"attachable: {symbol}, by kprobe only, which costs each call more ({lacks})"
        return Finding(topic, Verdict.OK, said)
    remedy = f"build {probe.module} with BTF (CONFIG_DEBUG_INFO_BTF_MODULES) for fentry"
    return Finding(
        topic,
        Verdict.DEGRADED,
        f"attachable: {symbol}, by kprobe only ({lacks}), which the kernel skips when it "
        "interrupts another probe; such SAVEs are shown with bounds",
        "update libbpf" if lacks == OLD_LIBBPF else remedy,
    )


def _remedy(reason: str, probe: Probe) -> str:
    if "blacklisted" in reason:
        return "none: the kernel forbids probes there"
    if "only as" in reason:
        return (
            "the compiler made a copy with other arguments: build the module without "
            "-fipa-sra and -fipa-cp"
        )
    if probe.required:
        return "nothing can be traced without it: please report the module's version"
    return "all else is shown; a build with noinline on that function has it"


def _not_examined(topic: str, reason: str) -> Finding:
    return Finding(topic, Verdict.DEGRADED, f"not examined: {reason}")
