# SPDX-License-Identifier: GPL-2.0-or-later
"""Generated modules as a reader and his tools see them: clean, deterministic, and without warnings.

Every other uapi header of Linux 6.12 goes through the generator as well: a sample on every change,
all of them with --all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genbindings.backends import render
from genbindings.errors import Error
from genbindings.generate import Options, model, text
from genbindings.verify_module import verify_module

Sources = Callable[[str], Path]
ROOT = Path(__file__).parents[2]

# Headers with something of their own: packed and untagged types, macros that name themselves or
# hide enumerators, bytes that are no UTF-8, functions that paste, flexible arrays in unions.
PECULIAR = (
    *("cciss_defs.h", "jffs2.h", "edd.h", "pkt_sched.h", "tipc_config.h", "if.h", "in.h"),
    *("videodev2.h", "kfd_ioctl.h", "map_to_7segment.h", "papr_pdsm.h", "vbox_vmmdev_types.h"),
    *("blkdev.h", "iommufd.h", "vfio_ccw.h", "vfio_zdev.h", "btrfs.h", "bpf.h", "io_uring.h"),
    *("ublk_cmd.h", "dma-heap.h", "if_tunnel.h", "ioctl.h", "const.h", "virtio_input.h"),
)
# Headers that cannot be used alone, and what they say.
NOT_ALONE = {
    "linux/kvm.h": r"kvm\.h:\d+: KVM_COALESCED_MMIO_MAX: 'PAGE_SIZE' undeclared",
    "linux/patchkey.h": r'patchkey\.h:\d+: #error "patchkey\.h included directly"',
    "linux/phonet.h": r"phonet\.h:\d+: .*incomplete type 'struct sockaddr'",
    "linux/sctp.h": r"sctp\.h:\d+: 'MSG_FIN' undeclared",
    "xen/evtchn.h": r"evtchn\.h:\d+: unknown type name 'domid_t'",
    "xen/privcmd.h": r"privcmd\.h:\d+: xen/interface/xen\.h: No such file",
    "linux/rseq.h": r"rseq\.h:\d+: rseq_cs is aligned to 32 bytes, which ctypes cannot express",
}


def clean(folder: Path) -> str:
    """Return what ruff and mypy --strict have against the modules and stubs in ``folder``."""
    config = ["--config", str(ROOT / "pyproject.toml")]
    said = ""
    for command, cwd in (
        ([sys.executable, "-m", "ruff", "check", *config, str(folder)], ROOT),
        ([sys.executable, "-m", "ruff", "format", "--check", *config, str(folder)], ROOT),
        # The modules first; their stubs are in a folder of their own, or would hide them.
        *(
            (
                [
                    *[sys.executable, "-m", "mypy", "--strict", "--cache-dir"],
                    *[os.devnull, *sorted(path.name for path in each.glob("*.py*"))],
                ],
                each,
            )
            for each in (folder, folder / "stubs")
        ),
    ):
        env = {**os.environ, "MYPYPATH": str(ROOT / "bindings")}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=cwd, env=env
        )
        said += done.stdout + done.stderr if done.returncode else ""
    return said


def write(header: str, kernel: Path, folder: Path) -> None:
    """Write the module and the stub of ``header``, verified."""
    found, _ = model(Options(header, kernel=kernel))
    module = render(found, "ctypes")
    verify_module(found, module)
    name = re.sub(r"\W", "_", header.removesuffix(".h"))
    (folder / "stubs").mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(module)
    (folder / "stubs" / f"{name}.pyi").write_text(render(found, "pyi"))


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_both_headers_are_clean_and_deterministic(
    kernel: str, kernel_source: Sources, tmp_path: Path
) -> None:
    tree = kernel_source(kernel)
    for header in ("vfio.h", "mlx5_ifc.h"):
        write(header, tree, tmp_path)
        for output_format in ("ctypes", "pyi", "json", "c-assert"):
            first, found, located = text(Options(header, kernel=tree), output_format)
            assert first == text(Options(header, kernel=tree), output_format)[0]
            assert str(tree) not in first
            assert str(located.path.parent) not in first
            if output_format != "json":
                head = first[:2000]
                assert f"SPDX-License-Identifier: {found.spdx}" in head
                assert header in head
                assert found.sha256 in head
                assert not re.search(r"\b20\d\d-\d\d", head)
    assert clean(tmp_path) == ""


def test_a_small_header_of_the_bit_dialect(tmp_path: Path) -> None:
    """No enum, no command, no comment: the tables that are empty are clean too."""
    source = tmp_path / "small.h"
    source.write_text(
        "/* A small header */\n\n/* The length is in dwords. */\n"
        "struct mlx5_ifc_small_bits {\n"
        "\tu8 length[0x8];\t/* without the head */\n"
        "\tu8 reserved_at_8[0x18];\n"
        "};\n"
    )
    for output_format, name in (("ctypes", "small.py"), ("pyi", "stubs/small.pyi")):
        (tmp_path / "stubs").mkdir(exist_ok=True)
        rendered, _, _ = text(Options(str(source)), output_format)
        (tmp_path / name).write_text(rendered)
    assert clean(tmp_path) == ""
    module = (tmp_path / "small.py").read_text()
    assert "The length is in dwords.\n\nlength: without the head\n" in module


def test_peculiar_headers(kernel_source: Sources, tmp_path: Path) -> None:
    for header in PECULIAR:
        write(header, kernel_source("6.12"), tmp_path)
    assert clean(tmp_path) == ""


@pytest.mark.parametrize("header", NOT_ALONE)
def test_headers_that_need_others_say_so(header: str, kernel_source: Sources) -> None:
    tree = kernel_source("6.12")
    with pytest.raises(Error, match=NOT_ALONE[header]) as caught:
        text(Options(header, kernel=tree), "ctypes")
    assert "/uapi/" not in str(caught.value).replace("include/uapi", "")


@pytest.mark.slow
def test_every_uapi_header(kernel_source: Sources, tmp_path: Path) -> None:
    tree = kernel_source("6.12")
    root = tree / "include/uapi"
    refused: dict[str, str] = {}
    headers = sorted(str(path.relative_to(root)) for path in root.rglob("*.h"))
    for header in headers:
        try:
            write(header, tree, tmp_path)
        except Error as error:
            refused[header] = str(error)
    assert len(headers) - len(refused) >= 880
    for header, message in refused.items():
        # Where it is, and what is missing or cannot be.
        assert re.search(r"\w\.h:\d+: \S", message), (header, message)
        assert "bug in gen-bindings" not in message
    assert clean(tmp_path) == ""


def _interpreters() -> list[str]:
    """Return every Python that the bindings support and this machine has."""
    found = {sys.executable}
    for minor in range(11, 20):
        path = shutil.which(f"python3.{minor}")
        if path is not None:
            found.add(path)
    return sorted(found)


def test_imports_without_warnings() -> None:
    script = (
        "import sys; assert sys.version_info >= (3, 11), sys.version\n"
        "from mlxuapi import mlx5_ifc, vfio\n"
        "for name in mlx5_ifc.LAYOUTS: getattr(mlx5_ifc, name)().to_dict()\n"
        "for name in mlx5_ifc.ENUMS: list(getattr(mlx5_ifc, name))\n"
        "print(vfio.vfio_device_info())\n"
    )
    for python in _interpreters():
        done = subprocess.run(
            [python, "-W", "error", "-c", script],
            check=False,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT / "bindings"), "PATH": os.environ["PATH"]},
        )
        if "is not installed" in done.stderr or "not found" in done.stderr:
            # A version manager's place holder.
            continue
        assert (done.returncode, done.stderr) == (0, ""), python
        assert done.stdout.startswith("vfio_device_info(argsz=24, ")


def test_the_shipped_files_are_those_of_the_project(kernel_source: Sources) -> None:
    kernel_source("6.12")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("gen-bindings")), "check"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("up to date") == 3


def test_a_new_backend_is_one_module_and_one_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbindings import backends, resources

    (tmp_path / "templates").mkdir()
    for template in resources.find("templates").iterdir():
        shutil.copy(template, tmp_path / "templates")
    (tmp_path / "templates/names.j2").write_text("{{ names }}\n")
    (tmp_path / "struct_names_any.py").write_text(
        "from genbindings import resources\n"
        "def render(header):\n"
        "    names = ' '.join(struct.name for struct in header.own_structs())\n"
        "    return resources.environment().get_template('names.j2').render(names=names)\n"
    )
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    monkeypatch.setattr(resources, "find", lambda name: tmp_path / name)
    source = tmp_path / "sample.h"
    source.write_text("struct one { int x; };\nstruct two { int x; };\n")
    assert "struct-names" in backends.formats()
    assert text(Options(str(source)), "struct-names")[0] == "one two\n"
