# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue, the layouts and the program that is rendered from both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genbindings.errors import Error, UsageError
from mlxpatch import build, kernels
from mlxpatch.progress import Progress
from mlxtrace import bccheaders, catalogue, counters, layout, program
from mlxtrace.btf import Btf
from mlxtrace.layout import WANTED, Layouts

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxtrace"

DRIVER = """
typedef unsigned long long u64; typedef unsigned int u32; typedef unsigned short u16;
struct kobject { const char *name; };
struct device { long before[3]; struct kobject kobj; void *driver_data; };
struct pci_dev { long before[2]; struct device dev; };
struct file { char mode[40]; void *private_data; long long f_pos; };
struct vfio_device { struct device *dev; };
struct vfio_pci_core_device { u64 pad; struct vfio_device vdev; };
struct mlx5_core_dev;
struct mlx5vf_pci_core_device {
    struct vfio_pci_core_device core_device;
    u16 vhca_id; char migrate_cap : 1; u32 mig_state; struct mlx5_core_dev *mdev;
    struct mlx5_vf_migration_file *resuming_migf, *saving_migf;
};
struct mlx5_async_work { void *ctx; void *cb; u16 opcode; u16 op_mod; void *out; };
struct mlx5vf_async_data { long first; struct mlx5_async_work cb_work; };
struct mlx5_vf_migration_file {
    struct file *filp;
    union { struct { u64 inner; u64 POSITION; }; u64 other[4]; };
    struct mlx5vf_pci_core_device *mvdev;
    struct mlx5vf_async_data async_data;
};
BUFFER
struct mlx5_vf_migration_file migf; struct mlx5vf_pci_core_device mvdev;
struct file file; struct pci_dev device;
"""
BUFFER = """
struct mlx5_vhca_data_buffer {
    u64 table; long long start_pos; u64 length, allocated_length;
    u32 npages; struct mlx5_vf_migration_file *migf;
};
struct vfio_precopy_info { u32 argsz, flags; u64 initial_bytes, dirty_bytes; };
struct mlx5_vhca_data_buffer buffer; struct vfio_precopy_info info;
"""
EXPECTED = {
    "OFF_VDEV": 8,
    "OFF_VDEV_DEV": 0,
    "OFF_DEVICE_NAME": 24,
    "OFF_MVDEV_VHCA": 16,
    "OFF_MVDEV_STATE": 20,
    "OFF_MVDEV_MDEV": 24,
    "OFF_FILE_PRIVATE": 40,
    "OFF_FILE_POS": 48,
    "OFF_MIGF_POSITION": 16,
    "OFF_MIGF_MVDEV": 40,
    "OFF_MIGF_WORK": 56,
    "OFF_WORK_OUT": 24,
    "OFF_MVDEV_RESUMING": 32,
    "OFF_MVDEV_SAVING": 40,
    "OFF_CORE_VDEV": 8,
    "OFF_PCI_DRVDATA": 48,
}
OF_BUFFER = {
    "OFF_BUFFER_START": 8,
    "OFF_BUFFER_LENGTH": 16,
    "OFF_BUFFER_ALLOCATED": 24,
    "OFF_BUFFER_PAGES": 32,
    "OFF_BUFFER_MIGF": 40,
    "OFF_INFO_INITIAL": 8,
    "OFF_INFO_DIRTY": 16,
}


def compiled(folder: Path, text: str, *flags: str) -> Path:
    source = folder / "driver.c"
    source.write_text(text)
    target = folder / f"driver{''.join(flags)}.o"
    subprocess.run(["gcc", "-c", *flags, source, "-o", target], check=True)
    return target


def needs_gcc_btf(folder: Path) -> None:
    probe = folder / "probe.c"
    probe.write_text("int x;")
    done = subprocess.run(
        ["gcc", "-c", "-gbtf", probe, "-o", folder / "probe.o"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this gcc makes no BTF")


@pytest.mark.parametrize("debug", ["-g", "-gbtf"])
@pytest.mark.parametrize("buffers", [True, False])
def test_layouts_from_dwarf_and_from_btf(tmp_path: Path, debug: str, buffers: bool) -> None:
    if debug == "-gbtf":
        needs_gcc_btf(tmp_path)
    text = DRIVER.replace("POSITION", "max_pos" if buffers else "total_length")
    path = compiled(tmp_path, text.replace("BUFFER", BUFFER if buffers else ""), debug)
    found = layout.of_file(path)
    assert found.source.startswith("BTF" if debug == "-gbtf" else "DWARF")
    assert found.offsets == EXPECTED | (OF_BUFFER if buffers else {})
    assert found.has_buffers is buffers
    assert found.has_precopy_info is buffers


def test_a_layout_never_seen_names_what_is_missing(tmp_path: Path) -> None:
    text = DRIVER.replace("POSITION", "end_of_stream").replace("BUFFER", BUFFER)
    text = text.replace("mlx5vf_pci_core_device *mvdev", "mlx5vf_pci_core_device *owner")
    path = compiled(tmp_path, text, "-g")
    with pytest.raises(Error, match=r"migration_file\.mvdev, .*max_pos/total_length"):
        layout.of_file(path)


def test_neither_btf_nor_dwarf(tmp_path: Path) -> None:
    path = compiled(tmp_path, "int x;")
    with pytest.raises(Error, match="neither BTF nor DWARF"):
        layout.of_file(path)


def _modules() -> list[Path]:
    """The drivers of the lab's kernels: upstream's, and others that were built before."""
    progress = Progress("tests")
    kernel, source = kernels.ensure("6.12", progress)
    firmware = build.build(build.lab_firmware(), kernel.headers, progress)
    driver = build.stock_driver(source.root)
    build.build(driver, kernel.headers, progress, symvers=[firmware.symvers])
    return sorted(CACHE.glob("builds/mlx5-vfio-pci-*/mlx5-vfio-pci.ko"))


def _vmlinux_of(module: Path) -> Path | None:
    release = re.sub(r"^mlx5-vfio-pci-|-[0-9a-f]{16}$", "", module.parent.name)
    found = CACHE / f"kernels/{release}/usr/src/linux-headers-{release}/vmlinux"
    return found if found.is_file() else None


def test_real_drivers_agree_with_pahole() -> None:
    modules = _modules()
    assert any("-6.12." in module.parent.name for module in modules)
    for module in modules:
        dwarf = layout.resolve(layout.DwarfTypes(module), "DWARF")
        # The optional ones are of PRE_COPY: 6.12 has it, 6.1 as far as a series was applied.
        needed = {wanted.macro for wanted in WANTED if wanted.needed}
        known = {wanted.macro for wanted in WANTED}
        if "-6.12." in module.parent.name:
            needed = known - {"OFF_BUFFER_PAGES"}
        assert needed <= set(dwarf.offsets) <= known
        vmlinux = _vmlinux_of(module)
        if vmlinux is not None:
            btf = layout.of_file(module, vmlinux)
            assert btf.source.startswith("BTF")
            assert btf.offsets == dwarf.offsets
        if shutil.which("pahole"):
            said = subprocess.run(
                ["pahole", "-F", "dwarf", "-C", "mlx5_vf_migration_file", module],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            position = re.search(r"(?:max_pos|total_length);\s+/\*\s+(\d+)", said)
            assert position
            assert int(position[1]) == dwarf.offsets["OFF_MIGF_POSITION"]


@pytest.mark.skipif(not Path("/sys/kernel/btf/vmlinux").exists(), reason="this kernel has no BTF")
def test_the_running_kernels_btf() -> None:
    kernel = Btf.of_kernel()
    assert kernel is not None
    assert kernel.offset("kobject", "name") == 0
    assert kernel.offset("kobject", "no_such_member") is None
    assert kernel.offset("no_such_struct", "name") is None
    assert kernel.offset("bpf_link_info", "perf_event", "kprobe", "addr") is not None
    assert Btf.of_module("no_such_module") is None


LAYOUTS = Layouts("a test", {wanted.macro: 8 * n for n, wanted in enumerate(WANTED)})
GENERIC_LAYOUTS = Layouts(
    "a test",
    {
        **{wanted.macro: 8 * n for n, wanted in enumerate(layout.WANTED_GENERIC)},
        "OFF_INFO_INITIAL": 8,
        "OFF_INFO_DIRTY": 16,
    },
    generic=True,
)


def test_the_catalogue_is_consistent() -> None:
    names = [probe.name for probe in catalogue.PROBES]
    assert len(set(names)) == len(names)
    assert all(probe.captures and probe.loses and probe.symbols for probe in catalogue.PROBES)
    text = program.render(catalogue.PROBES, LAYOUTS)
    for probe in catalogue.PROBES:
        for name in probe.programs:
            assert f"int {name}(struct pt_regs *ctx)" in text
    made = re.findall(r"^int (\w+)\(", text, re.MULTILINE)
    assert set(made) == {name for probe in catalogue.PROBES for name in probe.programs}
    assert 2 + 2 * len(catalogue.NUMBERS) == counters.COUNT


def test_any_driver_has_a_program_of_its_own() -> None:
    text = program.render(catalogue.GENERIC, GENERIC_LAYOUTS)
    made = re.findall(r"^int (\w+)\(", text, re.MULTILINE)
    assert set(made) == {name for probe in catalogue.GENERIC for name in probe.programs}
    assert "OFF_MIGF" not in text
    assert "OFF_MVDEV" not in text
    assert catalogue.select(["data-file"], generic=True)[-1].name == "resume-write"
    with pytest.raises(UsageError, match="device-ioctl"):
        catalogue.select(["device-ioctl"], generic=True)


@pytest.mark.parametrize("own_struct", [True, False])
def test_layouts_of_the_core(tmp_path: Path, own_struct: bool) -> None:
    text = DRIVER.replace("POSITION", "max_pos").replace("BUFFER", "")
    if own_struct:
        text += "struct vfio_device_file { long first; void *device; }; struct vfio_device_file f;"
    path = compiled(tmp_path, text, "-g")
    found = layout.resolve(layout.DwarfTypes(path), "DWARF", generic=True)
    names = ("OFF_VDEV_DEV", "OFF_DEVICE_NAME", "OFF_FILE_PRIVATE", "OFF_FILE_POS")
    expected = {name: EXPECTED[name] for name in names}
    expected |= {"OFF_INFO_INITIAL": 8, "OFF_INFO_DIRTY": 16}
    assert found.offsets == expected | ({"OFF_DEVICE_OF_FILE": 8} if own_struct else {})
    assert not any(found.why_not(probe.name) for probe in catalogue.GENERIC)


def test_probes_can_be_left_out_but_not_the_required_ones() -> None:
    some = catalogue.select(["save-callback", "next-state"])
    text = program.render(some, LAYOUTS)
    assert "enter_save_callback" not in text
    assert "enter_next_state" not in text
    assert "enter_save_read" in text
    with pytest.raises(UsageError, match="cmd-exec"):
        catalogue.select(["cmd-exec"])
    with pytest.raises(UsageError, match="no probe 'nothing'"):
        catalogue.select(["nothing"])


def test_a_driver_without_precopy_has_no_handler_for_it() -> None:
    old = {k: v for k, v in LAYOUTS.offsets.items() if k not in OF_BUFFER}
    text = program.render(catalogue.PROBES, Layouts("a test", old))
    assert "precopy_ioctl" not in text
    assert "OFF_BUFFER_START" not in text


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        ((), "load64(buffer + OFF_BUFFER_ALLOCATED)"),
        (("OFF_BUFFER_ALLOCATED",), "load32(buffer + OFF_BUFFER_PAGES) * "),
        (("OFF_BUFFER_ALLOCATED", "OFF_BUFFER_PAGES"), "load64(buffer + OFF_BUFFER_LENGTH)"),
    ],
)
def test_how_much_memory_a_buffer_has(lacks: tuple[str, ...], expected: str) -> None:
    offsets = {k: v for k, v in LAYOUTS.offsets.items() if k not in lacks}
    text = program.render(catalogue.PROBES, Layouts("a test", offsets))
    assert f"return {expected}" in text or f"return (u64){expected}" in text


def test_what_a_driver_lacks_costs_the_probes_that_need_it() -> None:
    def without(*macros: str) -> Layouts:
        return Layouts("", {k: v for k, v in LAYOUTS.offsets.items() if k not in macros})

    def lost(layouts: Layouts) -> list[str]:
        return [p.name for p in catalogue.PROBES if layouts.why_not(p.name)]

    assert lost(LAYOUTS) == []
    assert lost(without("OFF_BUFFER_START")) == ["buffer-alloc", "buffer-free"]
    assert lost(without("OFF_BUFFER_MIGF")) == ["buffer-free", "mkey"]
    assert lost(without("OFF_MVDEV_SAVING")) == ["session-end", "reset"]
    assert lost(without("OFF_PCI_DRVDATA")) == ["reset"]
    assert lost(without("OFF_INFO_DIRTY")) == ["precopy-ioctl"]


def test_calling_conventions() -> None:
    assert "PT_REGS_SP(ctx) + 8" in program.render(catalogue.PROBES, LAYOUTS, machine="x86_64")
    assert "regs[6]" in program.render(catalogue.PROBES, LAYOUTS, machine="aarch64")
    with pytest.raises(Error, match="riscv64"):
        program.render(catalogue.PROBES, LAYOUTS, machine="riscv64")


def headers(folder: Path) -> None:
    """Join the split headers of the lab's kernel in ``folder``, as BCC_KERNEL_SOURCE wants it.

    bcc takes them where a user names them, and where ours do not suffice.
    """
    own = kernels.ensure("6.12", Progress("tests"))[0].headers
    common = own.with_name(own.name.replace("-amd64", "-common"))
    for source in (common, own):
        for part in ("arch", "include"):
            subprocess.run(["cp", "-asT", source / part, folder / part], check=True)


COMPILE = """
import sys, bcc
from mlxtrace import bccheaders, program
text = open(sys.argv[1]).read()
with bccheaders.used():
    bpf = bcc.BPF(text=text, cflags=[*program.CFLAGS, *program.QUICK_CFLAGS])
for name in sys.argv[2:]:
    # Ours for fentry are loaded for a module's function, which takes that module.
    if name.startswith("f"):
        assert bpf.dump_func(name.encode())
    else:
        bpf.load_func(name.encode(), bcc.BPF.KPROBE)
"""


@pytest.mark.parametrize(
    "variant", ["all", "fentry", "filtered", "old driver", "any driver", "kernel's"]
)
def test_the_program_compiles_and_the_verifier_takes_it(tmp_path: Path, variant: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != bccheaders.SOURCE}
    if variant == "kernel's":
        tree = tmp_path / "headers"
        tree.mkdir()
        headers(tree)
        environment[bccheaders.SOURCE] = str(tree)
    layouts = LAYOUTS
    probes = list(catalogue.PROBES)
    if variant == "old driver":
        layouts = Layouts(
            "a test", {k: v for k, v in LAYOUTS.offsets.items() if k not in OF_BUFFER}
        )
        probes = [probe for probe in probes if not layouts.why_not(probe.name)]
    if variant == "any driver":
        layouts, probes = GENERIC_LAYOUTS, list(catalogue.GENERIC)
    path = tmp_path / "program.c"
    by_fentry = {p.name for p in probes if p.fentry} if variant == "fentry" else set()
    path.write_text(
        program.render(probes, layouts, by_fentry=by_fentry, filtered=variant == "filtered")
    )
    # Loading asks the kernel that runs, which takes root; compiling does not.
    names = [n for p in probes for n in (p.fentry_programs if p.name in by_fentry else p.programs)]
    if os.geteuid() != 0:
        names = []
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, path, *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
