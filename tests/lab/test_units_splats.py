# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of splat patterns, against logs of each kind and against lines that are none."""

from __future__ import annotations

import pytest

from mlxlab import splats

WARNING = """\
[    5.123456] provoke: loading out-of-tree module taints kernel.
[    6.000001] ------------[ cut here ]------------
[    6.000002] something is off
[    6.000003] WARNING: CPU: 1 PID: 211 at provoke.c:40 provoke_init+0x5f/0xff0 [provoke]
[    6.000004] Modules linked in: provoke(OE+) vfio_pci_core
[    6.000005] CPU: 1 UID: 0 PID: 211 Comm: insmod Tainted: G           OE      6.12.117
[    6.000006] Call Trace:
[    6.000007]  <TASK>
[    6.000008]  do_one_initcall+0x5b/0x310
[    6.000009]  </TASK>
[    6.000010] ---[ end trace 0000000000000000 ]---
[    7.000000] vfio_pci_core: after it
"""

HEADLINES = {
    "oops": "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "bug": "kernel BUG at mm/slub.c:448!",
    "protection": "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
    "kasan": "BUG: KASAN: slab-use-after-free in mlx5vf_save_callback+0x20/0x1f0",
    "lockdep": "WARNING: possible circular locking dependency detected",
    "rcu": "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "hung": "INFO: task qemu:1234 blocked for more than 120 seconds.",
    "soft lockup": "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [qemu:1234]",
    "ubsan": "UBSAN: shift-out-of-bounds in include/linux/log2.h:57:13",
    "panic": "Kernel panic - not syncing: sysrq triggered crash",
    "kmemleak": "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "refcount": "refcount_t: underflow; use-after-free.",
    "sleeping": "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580",
    "bad page": "BUG: Bad page state in process insmod  pfn:10f2c",
    "leaked objects": "BUG mlx5 (Not tainted): Objects remaining on __kmem_cache_shutdown()",
}

HARMLESS = (
    "mlx5_lab: loading out-of-tree module taints kernel.",
    "mlx5_lab: module verification failed: signature and/or required key missing",
    "mlx5_vfio_pci 0000:01:00.1: enabling device (0000 -> 0002)",
    "mlx5_lab 0000:01:00.0: command 0x119/0 refused: status 0x3, syndrome 0x1ab012",
    "Warning: unable to open an initial console.",
    "x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
    "debug: unmapping init [mem 0xffffffff9fe00000-0xffffffffa0064fff]",
)


def test_a_warning_is_found_whole_with_its_message() -> None:
    (found,) = splats.find(WARNING.splitlines())
    assert found.headline.startswith("WARNING: CPU: 1")
    assert "something is off" in found.lines[0]
    assert found.lines[-1].endswith("---[ end trace 0000000000000000 ]---")


@pytest.mark.parametrize("line", HEADLINES.values(), ids=HEADLINES.keys())
def test_each_kind_is_found(line: str) -> None:
    log = ["[    1.000000] before", f"[    2.000000] {line}", "[    3.000000] after"]
    found = splats.find(log)
    assert len(found) == 1
    assert line in found[0].lines[0]
    assert found[0].kind


@pytest.mark.parametrize("line", HARMLESS)
def test_what_a_good_boot_says_is_no_splat(line: str) -> None:
    assert splats.find([f"[    2.000000] {line}"]) == []


@pytest.mark.parametrize("stamp", ["", "[    2.5] ", "<4>[    2.5] ", "[    2.5][  T211] "])
def test_every_form_of_time_stamp(stamp: str) -> None:
    assert len(splats.find([f"{stamp}kernel BUG at mm/slub.c:448!"])) == 1


def test_two_logs_of_one_guest_tell_each_splat_once() -> None:
    console = "[    9.000000] Kernel panic - not syncing: sysrq triggered crash\n"
    merged = splats.merge(WARNING, WARNING + console)
    assert [splat.headline[:12] for splat in merged] == ["WARNING: CPU", "Kernel panic"]
