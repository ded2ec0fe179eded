# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user gets who asks for what cannot be: one line, exit status 1 or 2."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from genbindings.errors import Error, UsageError
from mlxtrace import capture, devices, doctor, host, layout, precopy
from mlxtrace.catalogue import GENERIC, PROBES
from mlxtrace.cli import group
from mlxtrace.cli_precopy import command

from .fake_host import FakeHost


def invoke(*arguments: str) -> BaseException | None:
    """Run ``mlxtrace precopy``; return the error that the console would print as one line."""
    return CliRunner().invoke(command, arguments).exception


@pytest.fixture
def host_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("require_privileges", "require_module"):
        monkeypatch.setattr(host, check, lambda *_: None)


def test_the_group_lists_every_subcommand() -> None:
    said = CliRunner().invoke(group, ["--help"]).output
    for name in ("precopy", "migrate", "report", "doctor", "stream", "validate"):
        assert f"  {name}" in said


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["-d", "zz"], "not a device address"),
        (["--ring-pages", "3"], "not a power of two"),
        (["--without", "cmd-exec"], "without the probe"),
        (["--without", "nothing"], "there is no probe"),
        (["-c", ""], "no command"),
        (["-c", "'"], "not shell words"),
    ],
)
def test_usage_errors(arguments: list[str], match: str) -> None:
    error = invoke(*arguments)
    assert isinstance(error, UsageError)
    assert match in str(error)


def test_one_line_and_exit_status_from_the_real_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mlxtrace.cli import main; main()", "precopy", "-d", "ff:1f.7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    first, hint = done.stderr.splitlines()
    assert first == "mlxtrace: error: 0000:ff:1f.7: there is no such device"
    assert hint.startswith("  hint: ")


def test_a_vf_of_another_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bus/pci/devices/0000:01:00.1"
    path.mkdir(parents=True)
    monkeypatch.setattr(devices, "SYSFS", tmp_path)
    with pytest.raises(Error, match="bound to no driver, not to mlx5_vfio_pci"):
        host.require_vf("01:00.1")
    (path / "driver").symlink_to("../../drivers/nvme")
    with pytest.raises(Error, match="bound to nvme, not to mlx5_vfio_pci"):
        host.require_vf("01:00.1")
    (path / "driver").unlink()
    (path / "driver").symlink_to("../../drivers/mlx5_vfio_pci")
    assert host.require_vf("01:00.1") == "0000:01:00.1"


def test_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, lockdown = tmp_path / "status", tmp_path / "lockdown"
    monkeypatch.setattr(host, "STATUS", status)
    monkeypatch.setattr(host, "LOCKDOWN", lockdown)
    status.write_text("CapEff:\t0000000000000000\n")
    with pytest.raises(Error, match="CAP_BPF and CAP_PERFMON"):
        host.require_privileges()
    status.write_text(f"CapEff:\t{1 << 38:016x}\n")
    with pytest.raises(Error, match=r"needs CAP_BPF \("):
        host.require_privileges()
    for bits in (1 << 38 | 1 << 39, 1 << 21):
        status.write_text(f"CapEff:\t{bits:016x}\n")
        host.require_privileges()
    lockdown.write_text("none [integrity] confidentiality\n")
    host.require_privileges()
    lockdown.write_text("none integrity [confidentiality]\n")
    with pytest.raises(Error, match="locked down"):
        host.require_privileges()


def test_no_module_and_no_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MODULES", tmp_path)
    with pytest.raises(Error, match="mlx5_vfio_pci is not loaded"):
        host.require_module()
    monkeypatch.setattr(platform, "release", lambda: "0.0.0-nowhere")
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    if not Path("/sys/kernel/kheaders.tar.xz").exists():
        with pytest.raises(Error) as raised:
            host.require_headers()
        assert "linux-headers-0.0.0-nowhere" in raised.value.hint
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/somewhere")
    host.require_headers()


def test_no_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(Error, match="apt install python3-bpfcc") as raised:
        capture.load_bcc()
    assert "--system-site-packages" in raised.value.hint


def test_the_bcc_of_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("bcc")
    other.__file__ = "/somewhere/bcc.py"
    monkeypatch.setitem(sys.modules, "bcc", other)
    with pytest.raises(Error, match="unrelated package"):
        capture.load_bcc()


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("ffff0 t mlx5vf_save_read\t[mlx5_vfio_pci]\n", ""),
        ("ffff0 t mlx5vf_save_read.isra.0\t[mlx5_vfio_pci]\n", "only as mlx5vf_save_read.isra.0"),
        ("ffff0 t mlx5vf_save_reader\t[mlx5_vfio_pci]\n", "inlined"),
        ("ffff0 t __pfx_mlx5vf_save_read\t[mlx5_vfio_pci]\n", "inlined"),
        ("", "not found"),
    ],
)
def test_why_a_symbol_is_absent(
    table: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlx5_vfio_pci").mkdir()
    monkeypatch.setattr(host, "MODULES", tmp_path)
    monkeypatch.setattr(host, "_symbols", lambda: table)
    said = host.why_absent("mlx5vf_save_read", "mlx5_vfio_pci")
    assert said == why or (why and why in said)


def test_a_command_that_does_not_exist() -> None:
    error = invoke("-c", "/no/such/command --flag")
    assert isinstance(error, Error)
    assert "cannot run /no/such/command" in str(error)


def test_dry_run_names_what_is_absent_and_what_that_costs(
    monkeypatch: pytest.MonkeyPatch, host_is_fine: None
) -> None:
    del host_is_fine
    offsets = {wanted.macro: 0 for wanted in layout.WANTED if wanted.macro != "OFF_PCI_DRVDATA"}
    monkeypatch.setattr(layout, "of_running_module", lambda: layout.Layouts("a test", offsets))
    monkeypatch.setattr(precopy, "load_bcc", lambda: None)
    monkeypatch.setattr(
        host, "why_absent", lambda symbol, _: "inlined" if symbol == "mlx5vf_save_read" else ""
    )
    done = CliRunner().invoke(command, ["--dry-run"])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert sum("available" in line for line in lines) == len(PROBES) - 2
    at = next(n for n, line in enumerate(lines) if "save-read" in line)
    assert "absent" in lines[at]
    assert "so reads and ends of the stream are missing" in lines[at + 1]


def test_the_places_of_any_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "kallsyms"
    table.write_text(
        "0 t one_save_read\t[one_vfio]\n0 t __pfx_one_save_read\t[one_vfio]\n"
        "0 T two_vf_save_read\t[two]\n0 t three_save_read\t[unrelated]\n0 t kernel_save_read\n"
        "0 d one_data_save_read\t[one_vfio]\n0 t one_restore_write\t[one_vfio]\n"
    )
    monkeypatch.setattr(devices, "SYSFS", tmp_path / "sys")
    for core, driver in (("vfio", "one_vfio"), ("vfio_pci_core", "two")):
        (tmp_path / core / "holders" / driver).mkdir(parents=True)
    monkeypatch.setattr(host, "MODULES", tmp_path)
    monkeypatch.setattr(host, "_symbols", table.read_text)
    probes = {probe.name: probe for probe in GENERIC}
    assert host.places(probes["save-read"]) == ["one_save_read", "two_vf_save_read"]
    assert host.places(probes["resume-write"]) == ["one_restore_write"]
    assert host.places(probes["precopy-ioctl"]) == []
    assert host.places(probes["data-file"]) == ["fd_install"]


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A host whose kernel has VFIO and vfio-pci in it, as Ubuntu's: neither has holders."""
    fake = FakeHost(tmp_path, monkeypatch)
    fake.write("sys/module/vfio/version", "0.3\n")
    fake.write(
        "proc/kallsyms",
        "0 t vfio_device_fops_unl_ioctl\n0 T vfio_mig_get_next_state\n0 T fd_install\n"
        "0 t acme_save_read\t[acme_vfio_pci]\n0 t acme_resume_write\t[acme_vfio_pci]\n"
        "0 t other_save_read\t[unrelated]\n0 t core_save_read\n0 d data_save_read\n",
    )
    return fake


def bind(fake: FakeHost, bus: str, name: str, module: str | None, *, vfio: bool = True) -> None:
    """Let a driver, which is of ``module``, have that device."""
    device = fake.root / f"sys/bus/{bus}/devices/{name}"
    device.mkdir(parents=True)
    if vfio:
        (device / "vfio-dev/vfio0").mkdir(parents=True)
    driver = fake.root / f"sys/bus/{bus}/drivers/{module or 'part-of-the-kernel'}"
    driver.mkdir(parents=True, exist_ok=True)
    (device / "driver").symlink_to(driver)
    if module and not (driver / "module").is_symlink():
        (driver / "module").symlink_to(fake.root / "sys/module" / module)


def place(name: str) -> list[str]:
    return host.places(next(probe for probe in GENERIC if probe.name == name))


def test_drivers_are_known_by_their_devices_where_vfio_is_built_in(built_in: FakeHost) -> None:
    assert place("save-read") == []
    bind(built_in, "pci", "0000:02:00.0", "unrelated", vfio=False)
    assert place("save-read") == []
    bind(built_in, "pci", "0000:01:00.1", "acme_vfio_pci")
    assert place("save-read") == ["acme_save_read"]
    assert place("resume-write") == ["acme_resume_write"]
    assert place("precopy-ioctl") == []
    assert host.why_nowhere()[0] == "in no driver of VFIO that is known here (acme_vfio_pci)"


@pytest.mark.parametrize(
    ("bus", "name", "module", "expected"),
    [
        ("mdev", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "unrelated", ["other_save_read"]),
        ("pci", "0000:01:00.1", "vfio_pci", ["core_save_read"]),
        ("pci", "0000:01:00.1", None, ["core_save_read"]),
    ],
)
def test_drivers_of_any_bus_and_in_the_kernel(
    built_in: FakeHost, bus: str, name: str, module: str | None, expected: list[str]
) -> None:
    bind(built_in, bus, name, module)
    assert place("save-read") == expected


def test_the_doctor_says_load_only_where_no_driver_is_known(built_in: FakeHost) -> None:
    def said() -> doctor.Finding:
        found = doctor.examine(generic=True, open_vfs=False)
        return next(each for each in found if each.topic == "probe precopy-ioctl")

    assert "none is known here" in said().said
    assert said().remedy.startswith("load the driver")
    assert said().remedy.endswith("bind a device to it")
    bind(built_in, "pci", "0000:01:00.1", "acme_vfio_pci")
    assert "(acme_vfio_pci)" in said().said
    assert said().remedy.startswith("if another driver")
