# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream of another driver or kind of device is refused, unless it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from genbindings.errors import Error
from mlxtrace import migrate, migrate_receive, netaddress, streamfile, wire
from mlxtrace.migrate_kin import require_kin
from mlxtrace.vfio import Device, State

from .fake_device import FakeDevice
from .fake_kernel import BDF, OTHER_BDF
from .migrate_pair import QUICK, STOP_COPY_ONLY, pair
from .peer_pair import migrate_between
from .test_streamcheck import build, parts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_lab")

HISI = {"vendor": "0x19e5", "device": "0xa251"}


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.2)
    monkeypatch.setattr(netaddress, "_SLICE_S", 0.01)


def strangers(what: str) -> tuple[FakeDevice, FakeDevice]:
    """Return two devices whose streams are of one format, and that differ in ``what``."""
    source, target = pair(flags=STOP_COPY_ONLY)
    if what in ("driver", "both"):
        target.driver = "hisi_acc_vfio_pci"
    if what in ("device", "both"):
        target.ids = HISI
    return source, target


@pytest.mark.parametrize("what", ["driver", "device", "both"])
def test_a_stranger_is_refused_before_anything_is_touched(tmp_path: Path, what: str) -> None:
    source, target = strangers(what)
    said = "is the stream of a device 15b3:101e with the driver mlx5_vfio_pci, and 0000:01:00.2 is"
    with pytest.raises(Error, match=f"^0000:01:00.1 {said} a device ") as caught:
        migrate.migrate_to_device(source, target, QUICK)
    assert "--force" in caught.value.hint
    ends = migrate_between(source, target)
    assert said in str(ends.target_error)
    assert ends.source is not None
    assert said in str(ends.source.error)
    assert source.log == target.log == [State.RUNNING]
    path = tmp_path / "vf.mlxstream"
    assert migrate.migrate_to_file(source, path, QUICK).error is None
    with pytest.raises(Error, match=f"vf.mlxstream {said}"):
        migrate.migrate_from_file(streamfile.load(path), target)
    assert target.log == [State.RUNNING]


def test_it_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = strangers("both")
    assert migrate.migrate_to_device(source, target, QUICK, force=True).error is None
    path = tmp_path / "vf.mlxstream"
    source, target = strangers("both")
    assert migrate.migrate_to_file(source, path, QUICK).error is None
    loaded = migrate.migrate_from_file(streamfile.load(path), target, force=True)
    assert loaded.error is None
    real = migrate_receive.migrate_from_peer
    monkeypatch.setattr(
        migrate_receive, "migrate_from_peer", lambda *a, **k: real(*a, **k, force=True)
    )
    source, target = strangers("both")
    ends = migrate_between(source, target)
    assert ends.target is not None
    assert ends.target.error is None
    assert source.hash() == target.hash()


def test_another_host_may_keep_any_stream(tmp_path: Path) -> None:
    source, _ = strangers("both")
    ends = migrate_between(source, tmp_path / "vf.mlxstream")
    assert ends.target is not None
    assert ends.target.error is None


@pytest.mark.parametrize(
    "said",
    [
        {"driver": "mlx5_vfio_pci", "ids": {"vendor": "0x15b3", "device": "0x101e"}},
        {
            "driver": "mlx5_vfio_pci",
            "kernel": "6.1.0-57-amd64",
            "ids": {"vendor": "15b3", "device": "101e", "revision": "0x01"},
        },
        {"driver": "mlx5_vfio_pci", "ids": {}},
        {"driver": 1, "ids": []},
        {},
    ],
)
def test_the_same_on_another_kernel_is_no_stranger_nor_is_what_is_not_known(
    said: dict[str, Any],
) -> None:
    require_kin("x", said, FakeDevice("0000:01:00.2"))


def test_words_of_another_host_do_a_terminal_no_harm() -> None:
    said = {"driver": "\x1b[2J\nx", "ids": {"vendor": "\x07", "device": 1}}
    with pytest.raises(Error) as caught:
        require_kin("x", said, FakeDevice("0000:01:00.2"))
    assert str(caught.value).isprintable()


def test_the_command_refuses_before_it_opens(
    run: Callable[..., tuple[int, str, str]],
    vfs: dict[str, FakeDevice],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Opening would reset the target."""
    path = tmp_path / "vf.mlxstream"
    assert run("--source", BDF, "--to", str(path))[0] == 0
    header, stream, trailer = parts(path.read_bytes(), path)
    path.write_bytes(build(header | {"ids": HISI}, stream, trailer))
    opened: list[str] = []

    def note(name: str) -> FakeDevice:
        opened.append(name)
        return vfs[name]

    monkeypatch.setattr(Device, "open", note)
    vfs[BDF] = FakeDevice(BDF)
    vfs[BDF].driver = "mtty"
    for origin in (("--from", str(path)), ("--source", BDF)):
        status, out, err = run(*origin, "--target", OTHER_BDF)
        assert (status, out, opened) == (1, "", [])
        assert err.startswith(f"mlxtrace: error: {origin[1]} is the stream of a device ")
    status, _, err = run("--from", str(path), "--target", OTHER_BDF, "--force")
    assert (status, err, opened) == (0, "", [OTHER_BDF])


def test_force_is_the_targets(run: Callable[..., tuple[int, str, str]]) -> None:
    for sides in (("--source", BDF, "--to", "x"), ("--source", BDF, "--connect", "h:1")):
        status, _, err = run(*sides, "--force")
        assert status == 2
        assert "--force goes with --target" in err
