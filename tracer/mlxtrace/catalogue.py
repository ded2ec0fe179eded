# SPDX-License-Identifier: GPL-2.0-or-later
"""The probes of ``mlxtrace precopy``: what each is put on, what it sees, what is lost without it.

The firmware mailbox is the anchor: opcodes 0x115 to 0x119 through ``mlx5_cmd_exec`` and
``mlx5_cmd_exec_cb`` have kept their layout since Linux 5.18. The driver's own functions differ
between kernels and add detail.

No more is attached than the output needs. The kernel skips a kprobe program that interrupts
another one on the same CPU, and the completion of a SAVE is an interrupt: each further probe
makes it likelier that it is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genbindings.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe.

    Attributes:
        name: what ``--without`` and the probe table call it; its handlers in the template are
            ``enter_NAME`` and ``leave_NAME`` with underscores.
        symbols: the functions that it can sit on, the best one first.
        module: the module that has them, for messages.
        returns: whether the function's return is probed.
        entry: whether its entry is.
        interrupt: whether the function runs in hard interrupt context, where the kernel may skip
            a kprobe's program.
        fentry: whether it is put on by fentry, and at its return by fexit, where that works: what
            a kprobe may miss, and what is called so often that a kprobe's cost counts.
        captures: what it sees.
        loses: what the output lacks without it.
        required: whether there is no use in tracing without it.
    """

    name: str
    symbols: tuple[str, ...]
    module: str
    captures: str
    loses: str
    returns: bool = False
    entry: bool = True
    interrupt: bool = False
    fentry: bool = False
    required: bool = False

    @property
    def identifier(self) -> str:
        """The name as a C identifier."""
        return self.name.replace("-", "_")

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of its handlers for kprobes, in the order in which they are attached."""
        return self._handlers("enter", "leave")

    @property
    def fentry_programs(self) -> tuple[str, ...]:
        """The names of its handlers for fentry and fexit, in that order."""
        return self._handlers("fentry", "fexit")

    @property
    def sides(self) -> tuple[bool, ...]:
        """For each of its handlers, whether it is for the function's return."""
        return (False,) * self.entry + (True,) * self.returns

    def _handlers(self, entry: str, leave: str) -> tuple[str, ...]:
        return tuple(
            f"{leave if at_return else entry}_{self.identifier}" for at_return in self.sides
        )


DRIVER = "mlx5_vfio_pci"
CORE = "mlx5_core"
VFIO = "vfio"
DRIVERS = "vfio drivers"
"""In place of a module: all that use VFIO's core. The symbols of such a probe are patterns, and it
is put on every function that one of them fits."""

PROBES: tuple[Probe, ...] = (
    Probe(
        "set-state",
        ("mlx5vf_pci_set_device_state",),
        DRIVER,
        "each SET_STATE: who asked, for which state, how long it took, its result",
        "there are no states, and so no sessions",
        returns=True,
        required=True,
    ),
    Probe(
        "next-state",
        ("vfio_mig_get_next_state",),
        VFIO,
        "each arc that a SET_STATE walks",
        "only whole SET_STATE calls are shown, not their arcs",
        returns=True,
    ),
    Probe(
        "precopy-ioctl",
        ("mlx5vf_precopy_ioctl",),
        DRIVER,
        "each VFIO_MIG_GET_PRECOPY_INFO: initial and dirty bytes, latency, error",
        "there are no ioctl rows (a driver without PRE_COPY has none), and temporary ends are put "
        "down to nobody asking",
        returns=True,
    ),
    Probe(
        "data-size",
        ("mlx5vf_pci_get_data_size",),
        DRIVER,
        "each VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: the size of a stop-copy, latency, error",
        "the size that a VMM decides with is missing (for a driver without it QEMU assumes 100 "
        "GiB, and does not converge)",
        returns=True,
    ),
    Probe(
        "get-state",
        ("mlx5vf_pci_get_device_state",),
        DRIVER,
        "how long a question for the state takes, which waits while a SAVE is waited for",
        "it is not known how long a VMM that asks for the state is held up",
        returns=True,
    ),
    Probe(
        "save-read",
        ("mlx5vf_save_read",),
        DRIVER,
        "bytes read, temporary ends, the final end of the stream",
        "reads and ends of the stream are missing",
        returns=True,
        fentry=True,
    ),
    Probe(
        "resume-write",
        ("mlx5vf_resume_write",),
        DRIVER,
        "bytes written to the target, and the headers in them",
        "writes are missing",
        returns=True,
        fentry=True,
    ),
    Probe(
        "save-entry",
        ("mlx5vf_cmd_save_vhca_state",),
        DRIVER,
        "when the driver began to wait for the previous SAVE, and into which buffer it saves",
        "the wait before a SAVE is unknown, and the size of one whose callback is not seen",
    ),
    Probe(
        "cmd-exec-cb",
        ("mlx5_cmd_exec_cb",),
        CORE,
        "each SAVE command as it is issued",
        "there are no SAVEs",
        required=True,
    ),
    # Not by fexit, even where there is fentry: before Linux 6.6 that takes functions of up to six
    # arguments, and this one has seven. It is no part of the probe above, since a trace without it
    # still has nearly all.
    Probe(
        "save-refused",
        ("mlx5_cmd_exec_cb",),
        CORE,
        "each SAVE command that mlx5_core refuses at once: its errno",
        "a SAVE that is refused at once has no errno, and counts as one whose callback was not "
        "seen",
        returns=True,
        entry=False,
    ),
    Probe(
        "save-callback",
        ("mlx5vf_save_callback",),
        DRIVER,
        "each SAVE's completion: firmware time, status, syndrome, size",
        "a SAVE's time is only bounded by the first read of it, and its status is unknown",
        interrupt=True,
        fentry=True,
    ),
    Probe(
        "cmd-exec",
        ("mlx5_cmd_exec",),
        CORE,
        "QUERY, SUSPEND, RESUME and LOAD: time, status, syndrome, size",
        "there are no LOADs and no QUERY results",
        returns=True,
        required=True,
    ),
    Probe(
        "buffer-alloc",
        ("mlx5vf_alloc_data_buffer",),
        DRIVER,
        "each buffer for images: its size, how long it took; which SAVEs reuse one",
        "it is not known whether a SAVE had to wait for memory, nor how much is held",
        returns=True,
    ),
    Probe(
        "buffer-free",
        ("mlx5vf_free_data_buffer",),
        DRIVER,
        "each buffer that is given back",
        "memory that is held is not known",
    ),
    Probe(
        "mkey",
        ("_create_mkey",),
        DRIVER,
        "each memory key that a buffer (before Linux 6.2: an image) needs: how long it took",
        "the cost of memory keys is part of what is around them",
        returns=True,
    ),
    Probe(
        "session-end",
        ("mlx5vf_disable_fds",),
        DRIVER,
        "a session that ends without a SET_STATE: by whom, in which state, from where",
        "sessions that a close of the device or a disabled VF ends are not told apart",
    ),
    Probe(
        "reset",
        ("mlx5vf_pci_aer_reset_done",),
        DRIVER,
        "each reset of a VF with a session: by whom, in which state, from where",
        "the state that a reset met is only known from the states before, and its caller only "
        "where the driver ends the session at once",
    ),
)

GENERIC: tuple[Probe, ...] = (
    Probe(
        "device-ioctl",
        ("vfio_device_fops_unl_ioctl",),
        VFIO,
        "each SET_STATE and each VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: who asked, how long, result",
        "there are no states, and so no sessions",
        returns=True,
        required=True,
    ),
    Probe(
        "next-state",
        ("vfio_mig_get_next_state",),
        VFIO,
        "each arc that a SET_STATE walks",
        "only whole SET_STATE calls are shown, not their arcs",
        returns=True,
    ),
    Probe(
        "data-file",
        ("fd_install",),
        "vmlinux",
        "which device a data file belongs to",
        "there are neither ioctls nor reads nor writes",
    ),
    Probe(
        "precopy-ioctl",
        ("*precopy_ioctl",),
        DRIVERS,
        "each VFIO_MIG_GET_PRECOPY_INFO: initial and dirty bytes, latency, error",
        "there are no ioctl rows (a driver without PRE_COPY has none), and temporary ends are put "
        "down to nobody asking",
        returns=True,
    ),
    Probe(
        "save-read",
        ("*save_read",),
        DRIVERS,
        "bytes read, temporary ends, the final end of the stream",
        "reads and ends of the stream are missing",
        returns=True,
    ),
    Probe(
        "resume-write",
        ("*resume_write", "*restore_write"),
        DRIVERS,
        "bytes written to the target",
        "writes are missing",
        returns=True,
    ),
)
"""What any driver of VFIO migration has, seen from VFIO's core."""

NUMBERS = {
    name: number
    for number, name in enumerate(dict.fromkeys(probe.name for probe in (*PROBES, *GENERIC)))
}
"""A number for each probe of either kind, by which the BPF program counts its calls."""

RETURNING = frozenset(probe.name for probe in (*PROBES, *GENERIC) if probe.returns)

SEVENTH_ARGUMENT = {
    # System V: arguments 7 and up are on the stack, above the return address.
    "x86_64": "load64(PT_REGS_SP(ctx) + 8)",
    # AAPCS64: x0 to x7.
    "aarch64": "(u64)((struct user_pt_regs *)ctx)->regs[6]",
}
"""How C reaches a function's 7th argument at its entry, by ``platform.machine()``."""


def of(*, generic: bool) -> tuple[Probe, ...]:
    """Return all probes for mlx5, or (``generic``) those for any driver of VFIO migration."""
    return GENERIC if generic else PROBES


def select(without: Collection[str] = (), *, generic: bool = False) -> tuple[Probe, ...]:
    """Return the probes to attach, less the optional ones named in ``without``.

    ``generic``: those for any driver of VFIO migration, not those for mlx5.

    Raises:
        UsageError: ``without`` names something that is not a probe, or a required one.
    """
    probes = of(generic=generic)
    names = {probe.name: probe for probe in probes}
    for name in without:
        if name not in names:
            raise UsageError(f"there is no probe {name!r}", f"probes: {', '.join(names)}")
        if names[name].required:
            raise UsageError(f"nothing can be traced without the probe {name!r}")
    return tuple(probe for probe in probes if probe.name not in without)
