# SPDX-License-Identifier: GPL-2.0-or-later
"""The distribution works away from the checkout: wheel and sdist carry what the tools load."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = ("gen-bindings", "mlxtrace", "mlxpatch", "mlxlab")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in ``cwd`` with nothing of this environment on the import path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist, so that both are shown to be whole."""
    out = tmp_path_factory.mktemp("dist")
    result = run(sys.executable, "-m", "build", "--outdir", out, REPOSITORY, cwd=out)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope="module")
def installed(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of a clean environment that has the wheel."""
    home = tmp_path_factory.mktemp("clean")
    (wheel,) = distributions.glob("*.whl")
    pip = str(home / "bin/pip")
    for command in (
        ["/usr/bin/python3", "-m", "venv", str(home)],
        [pip, "install", "-q", "--disable-pip-version-check", str(wheel)],
    ):
        result = run(*command, cwd=home)
        assert result.returncode == 0, result.stderr
    return home / "bin"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_console_script_runs_from_the_wheel(
    installed: Path, script: str, tmp_path: Path
) -> None:
    version = run(installed / script, "--version", cwd=tmp_path)
    assert version.returncode == 0, version.stderr
    assert version.stdout.startswith(f"{script} ")
    assert "Usage" in run(installed / script, "--help", cwd=tmp_path).stdout
    wrong = run(installed / script, "--no-such-option", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_the_wheel_has_the_man_page(installed: Path) -> None:
    page = installed.parent / "share/man/man8/mlxtrace-precopy.8"
    assert page.read_text().startswith('.\\" SPDX')


def test_the_wheel_generates_bindings_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    out = tmp_path / "vfio.py"
    result = run(installed / "gen-bindings", "--header", "vfio.h", "-o", out, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check = (
        "import ctypes, vfio\n"
        "print(ctypes.sizeof(vfio.vfio_device_info), int(vfio.VFIO_GROUP_SET_CONTAINER))"
    )
    result = run(installed / "python", "-c", check, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    size, number = map(int, result.stdout.split())
    assert size >= 20
    assert number == 0x3B68


def test_the_wheel_has_what_the_lab_and_the_tracer_load(installed: Path, tmp_path: Path) -> None:
    code = (
        "from genbindings.resources import find\n"
        "for name in ('templates/precopy.bpf.c.j2', 'lab/firmware/Kbuild', 'lab/kernels.toml',\n"
        "             'kernel-patches/linux-6.1/series',\n"
        "             'lab/debug-6.1.config', 'tracer/profiles/carried.toml'):\n"
        "    print(find(name))\n"
    )
    result = run(installed / "python", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    paths = [Path(line) for line in result.stdout.split()]
    assert len(paths) == 6
    assert not any(path.is_relative_to(REPOSITORY) for path in paths)


def test_the_wheel_has_the_guests_side_of_the_lab(installed: Path) -> None:
    (guest,) = installed.parent.glob("lib/python3*/site-packages/mlxlab/guest")
    # The guest's kernel starts it as its first process.
    assert os.access(guest / "init", os.X_OK)
    assert (guest / "session").is_file()
    assert (guest.parent / "splats.toml").is_file()


def test_the_sdist_holds_the_repository_and_no_build_products(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"run", "README.md", "LICENSE", "lab/firmware/Kbuild", "tests/conftest.py"} <= names
    products = (".ko", ".o", ".pyc", ".mod.c")
    assert not [name for name in names if name.endswith(products)]
