# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a probe's function is told from what the compiler really made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genbindings.dwarf import subprograms
from genbindings.errors import Error
from mlxpatch import modinfo, survey
from mlxtrace.catalogue import Probe
from tests.patches import fake_module

if TYPE_CHECKING:
    from pathlib import Path

BODY = """\
struct own { int first; long second; };
int sink;
__attribute__((noinline)) void plain(struct own *own) { own->first = sink; }
static inline __attribute__((always_inline)) int copied(int by) { return sink += by; }
int user_one(int by) { return copied(by); }
int user_two(int by) { if (by) { int twice = 2 * by; return copied(twice); } return 0; }
__attribute__((noinline)) int both(int by) { return sink *= by; }
static inline __attribute__((always_inline)) int half(int by) { return sink -= by; }
int half_user(int by) { return half(by); }
int (*half_pointer)(int) = half;
/* What -fipa-sra names a function whose parameters it took away. */
__attribute__((noinline)) void renamed(void) __asm__("renamed.isra.0");
void renamed(void) { sink++; }
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return fake_module.make(tmp_path / "mlx5-vfio-pci.ko", BODY)


def look(module: Path, *symbols: str) -> survey.Target:
    probe = Probe("a-probe", symbols, "mlx5_vfio_pci", "something", "it is missing")
    (target,) = survey.probes([module], [probe])
    return target


@pytest.mark.parametrize(
    ("symbol", "state", "detail"),
    [
        ("plain", "present", ""),
        ("both", "present", ""),
        ("copied", "inlined", "into user_one, user_two"),
        ("half", "partly inlined", "into half_user"),
        ("renamed", "renamed", "renamed.isra.0"),
        ("nowhere", "absent", ""),
    ],
)
def test_each_state_is_told(module: Path, symbol: str, state: str, detail: str) -> None:
    target = look(module, symbol)
    assert (target.state, target.detail) == (state, detail)
    assert target.works == (state == "present")
    assert target.loses == ("" if state == "present" else "it is missing")


def test_the_best_of_several_functions_counts(module: Path) -> None:
    target = look(module, "nowhere", "copied", "plain")
    assert (target.symbol, target.state) == ("plain", "present")


def test_a_module_that_is_not_rebuilt_is_elsewhere(tmp_path: Path) -> None:
    other = fake_module.make(tmp_path / "vfio.ko", BODY)
    assert look(other, "plain").state == "elsewhere"
    assert {target.state for target in survey.probes([])} == {"elsewhere"}


def test_own_structs_are_told_by_the_file_that_defines_them(module: Path) -> None:
    assert "own" in subprograms.own_records(module, [str(module.parent)])
    assert subprograms.own_records(module, ["/drivers/vfio/"]) == []


def test_a_module_says_what_it_is(tmp_path: Path) -> None:
    path = fake_module.make(
        tmp_path / "vfio-pci.ko", BODY, imports={"vfio_one": 0x12345678, "vfio_two": 0xFFFFFFFF}
    )
    module = modinfo.read(path)
    assert (module.name, module.release) == ("vfio_pci", fake_module.RELEASE)
    assert module.imports == {"vfio_one": 0x12345678, "vfio_two": 0xFFFFFFFF}
    assert {"plain", "both", "user_one"} <= module.functions
    assert (len(module.build_id), module.signed) == (40, False)
    assert module.sizes["bss"] == 4  # sink
    path.write_bytes(path.read_bytes() + b"signature~Module signature appended~\n")
    assert modinfo.read(path).signed


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    for name, data in (("text.ko", b"hello"), ("empty.ko", b""), ("bad.ko.xz", b"no xz")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Error, match=name):
            modinfo.read(tmp_path / name)
    with pytest.raises(Error, match="cannot read"):
        modinfo.read(tmp_path / "none.ko")
