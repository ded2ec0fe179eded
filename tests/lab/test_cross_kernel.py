# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams cross kernels: saved to a file on one, loaded on another, without and with PRE_COPY.

The labs follow each other as `pytest_collection_modifyitems` sorts the tests: the carried series
saves, upstream's driver and the unpatched one load that and save, and the carried series loads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import streamcheck
from tests.lab.conftest import CARRIED, KERNEL, STOCK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import Labs

pytestmark = pytest.mark.lab

# A stream's name: how it is saved, with which firmware.
SAVES = {
    "precopy": "save:precopy",
    "stopped": "save-stopped:precopy",
    "chunks": "save:chunks",
    "stopped-chunks": "save-stopped:chunks",
}
RECORDS = sorted(SAVES)
PLAIN = {"plain": "save:plain"}


@dataclass(frozen=True)
class Steps:
    """What one boot did with streams, and those that it saved."""

    folder: Path
    results: dict[str, dict[str, Any]]

    def stream(self, name: str) -> Path:
        return self.folder / f"{name}.mlxstream"

    def saved(self, name: str) -> dict[str, Any]:
        """Return the summary of saving the stream ``name``."""
        verb = (SAVES | PLAIN)[name]
        return self.results[f"{verb}:{name}"]


def take(labs: Labs, kernel: str, name: str, saves: dict[str, str], *steps: str) -> Steps:
    """Take ``steps`` on ``kernel`` and save the streams ``saves``, in one command."""
    lab = labs.on(kernel)
    folder = lab.out / name
    words = [f"{verb}:{folder / stream}.mlxstream" for stream, verb in saves.items()]
    done = lab.run(
        name, "python", "-m", "tests.lab.guest.streams", folder / "result.json", *steps, *words
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Steps(folder, json.loads((folder / "result.json").read_text()))


@pytest.fixture(scope="session")
def carried_streams(labs: Labs) -> Steps:
    """Streams that the carried series saved."""
    return take(labs, CARRIED, "carried-streams", SAVES | PLAIN)


@pytest.fixture(scope="session")
def on_upstream(labs: Labs, carried_streams: Steps) -> Steps:
    """What upstream's driver made of them, and its own."""
    loads = [f"load:precopy:{carried_streams.stream(name)}" for name in RECORDS]
    return take(labs, KERNEL, "upstream-streams", SAVES, *loads)


@pytest.fixture(scope="session")
def on_stock(labs: Labs, carried_streams: Steps) -> Steps:
    """What the unpatched driver made of them, and its own."""
    return take(
        labs,
        STOCK,
        "stock-streams",
        PLAIN,
        f"load:plain:{carried_streams.stream('plain')}",
        f"feed:plain:{carried_streams.stream('precopy')}",
    )


@pytest.fixture(scope="session")
def on_carried(labs: Labs, on_upstream: Steps, on_stock: Steps) -> Steps:
    """What the carried series made of those of the others."""
    return take(
        labs,
        CARRIED,
        "carried-loads",
        {},
        f"feed:precopy:{on_stock.stream('plain')}",
        *[f"load:precopy:{on_upstream.stream(name)}" for name in RECORDS],
        f"feed:plain:{on_upstream.stream('precopy')}",
        f"load:plain:{on_stock.stream('plain')}",
    )


def assert_same(saved: dict[str, Any], loaded: dict[str, Any]) -> None:
    """Assert that what was loaded is what was saved: every image, and the state."""
    assert saved["result"] == loaded["result"] == "done", saved.get("error", loaded.get("error"))
    assert saved["image_bytes"] == loaded["image_bytes"]
    assert saved["read_bytes"] == loaded["written_bytes"]
    assert saved["source_state_hash"] is not None
    assert saved["source_state_hash"] == loaded["target_state_hash"]


def images(steps: Steps, name: str) -> tuple[int, int, int]:
    """Return how many initial, middle and final images a stream has."""
    saved = steps.saved(name)
    return saved["initial_images"], saved["middle_images"], saved["final_images"]


def test_the_carried_series_saves_every_kind_of_image(carried_streams: Steps) -> None:
    initial, middle, final = images(carried_streams, "precopy")
    assert (initial, final) == (1, 1)
    assert middle >= 2
    assert images(carried_streams, "stopped") == (0, 0, 1)
    # It asks for no chunks, whatever the firmware has to offer.
    assert images(carried_streams, "chunks")[2] == 1
    assert carried_streams.saved("precopy")["framing"] == "records"
    assert carried_streams.saved("plain")["framing"] == "raw"


@pytest.mark.parametrize("name", RECORDS)
def test_linux_6_2_would_load_what_the_carried_series_saved(
    carried_streams: Steps, name: str
) -> None:
    # Its header has a size and flags, of 64 bits each, and it refuses a stream with a flag.
    found = streamcheck.examine(carried_streams.stream(name))
    assert found.records
    assert [(one.flags, one.tag) for one in found.records] == [(0, 0)] * len(found.records)


@pytest.mark.parametrize("name", RECORDS)
def test_upstream_loads_what_the_carried_series_saved(
    carried_streams: Steps, on_upstream: Steps, name: str
) -> None:
    assert_same(carried_streams.saved(name), on_upstream.results[f"load:precopy:{name}"])


def test_upstream_divides_the_final_image_into_chunks(on_upstream: Steps) -> None:
    assert images(on_upstream, "precopy")[2] == 1
    # A chunk of the simulated firmware has no room for the initial image, which is not divided: the
    # driver falls back, and final images are all that there is in such a stream.
    for name in ("chunks", "stopped-chunks"):
        initial, middle, final = images(on_upstream, name)
        assert (initial, middle) == (0, 0)
        assert final >= 8, name


def test_stock_loads_what_the_carried_series_saved_without_the_capabilities(
    carried_streams: Steps, on_stock: Steps
) -> None:
    assert_same(carried_streams.saved("plain"), on_stock.results["load:plain:plain"])


@pytest.mark.parametrize("name", RECORDS)
def test_the_carried_series_loads_what_upstream_saved(
    on_upstream: Steps, on_carried: Steps, name: str
) -> None:
    assert_same(on_upstream.saved(name), on_carried.results[f"load:precopy:{name}"])


def test_the_carried_series_loads_what_stock_saved_without_the_capabilities(
    on_stock: Steps, on_carried: Steps
) -> None:
    assert_same(on_stock.saved("plain"), on_carried.results["load:plain:plain"])


def test_a_stream_without_headers_is_refused(on_carried: Steps) -> None:
    fed = on_carried.results["feed:precopy:plain"]
    # The image's header reads as that of an optional record with a size beyond all streams, and is
    # skipped: what counts is that the stream then ends inside a record.
    assert fed["refused"] is None
    assert fed["stopped"] == "EINVAL"
    assert fed["after_reset"] == "RUNNING"


def test_a_stream_with_headers_is_refused_without_the_capabilities(
    on_stock: Steps, on_carried: Steps
) -> None:
    for steps in (on_stock, on_carried):
        fed = steps.results["feed:plain:precopy"]
        assert fed["stopped"] == "EINVAL"
        assert fed["after_reset"] == "RUNNING"
