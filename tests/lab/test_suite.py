# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole path, in one boot: migrations, the tracer beside them, refusals, and bad input.

Once for each driver with PRE_COPY: upstream's of Linux 6.12, and the carried series on 6.1.
"""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlxtrace import agreement, join_report
from mlxtrace.content import STEP_BYTES
from mlxtrace.report import report
from mlxtrace.streamcheck import examine
from tests.lab.conftest import CARRIED, KERNEL

if TYPE_CHECKING:
    from tests.lab.conftest import Scenario, Suite

pytestmark = pytest.mark.lab

VF0, VF1 = "0000:01:00.1", "0000:01:00.2"
# What says nothing of the driver runs once.
on_the_series = pytest.mark.parametrize("suite", [CARRIED], indirect=True)
whatever_the_driver = pytest.mark.parametrize("suite", [KERNEL], indirect=True)


def events(scenario: Scenario, kind: str, bdf: str | None = None) -> list[dict[str, Any]]:
    """Return the events of one type in a scenario's recording."""
    return [
        event
        for event in agreement.traced_events(scenario.folder / "trace.mlxrec")
        if event["type"] == kind and (bdf is None or event["bdf"] == bdf)
    ]


def summary(scenario: Scenario, bdf: str) -> dict[str, Any]:
    (found,) = events(scenario, "summary", bdf)
    return found


def one_line(text: str) -> str:
    """Return the error line of ``text``; a hint may follow, a traceback may not."""
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1, text
    return lines[0]


def test_the_boot_ends_well(suite: Suite) -> None:
    assert suite.run.returncode == 0, suite.run.stdout + suite.run.stderr
    assert suite["unload"].status == 0, suite["unload"].stderr
    assert suite["load"].status == 0, suite["load"].stderr


def test_the_firmware_saw_no_misuse(suite: Suite) -> None:
    lines = (suite.out / "assertions").read_text().splitlines()
    assert len(lines) >= 12
    assert [line for line in lines if not line.endswith(" 0")] == []


def test_the_trace_and_the_client_agree_on_every_figure(suite: Suite) -> None:
    traced = suite["traced"]
    assert traced.status == 0, traced.stdout + traced.stderr
    client = traced.json("client.json")
    rows = agreement.compare(client, agreement.traced_events(traced.folder / "trace.mlxrec"))
    assert [row for row in rows if not row.agrees] == []
    assert client["initial_images"] >= 1
    assert client["middle_images"] >= 2
    assert client["final_images"] == 1
    assert client["final_ends"] == 1
    assert client["state_hashes_equal"] is True


def test_what_was_written_is_what_was_read(suite: Suite) -> None:
    source, target = (summary(suite["traced"], vf) for vf in (VF0, VF1))
    assert source["read_content_samples"] == -(-source["read_bytes"] // STEP_BYTES)
    for what in ("sum", "samples"):
        assert source[f"read_content_{what}"] == target[f"written_content_{what}"] > 0
    assert (source["content_missed_samples"], target["content_missed_samples"]) == (0, 0)
    recording = suite["traced"].folder / "trace.mlxrec"
    text = io.StringIO()
    assert join_report.report(recording, recording, text)
    assert "  content       the same" in text.getvalue()


def test_the_firmware_is_the_third_witness(suite: Suite) -> None:
    traced = suite["traced"]
    traced_events = agreement.traced_events(traced.folder / "trace.mlxrec")
    for bdf, name in ((VF0, "source"), (VF1, "target")):
        counted = traced.counters(f"{name}.counters")
        rows = agreement.compare_firmware(bdf, counted, traced_events)
        assert [row for row in rows if not row.agrees] == []


def test_every_byte_read_and_written_is_accounted_for(suite: Suite) -> None:
    traced = suite["traced"]
    client = traced.json("client.json")
    flows = events(traced, "read")
    read = sum(flow["bytes"] for flow in flows if flow["direction"] == "read")
    written = sum(flow["bytes"] for flow in flows if flow["direction"] == "write")
    assert read == written == client["read_bytes"] == client["written_bytes"]


def test_calls_are_sorted_by_size_and_time(suite: Suite) -> None:
    traced = suite["traced"]
    for direction, bdf, key in (("read", VF0, "read_calls"), ("write", VF1, "write_calls")):
        for measure in ("size_bytes", "latency_ns"):
            counts = [
                event["counts"]
                for event in events(traced, "histogram", bdf)
                if (event["direction"], event["measure"]) == (direction, measure)
            ]
            assert sum(map(sum, counts)) == summary(traced, bdf)[key] > 0
    # The client reads and writes 1 MiB at a time.
    sizes = [e["counts"] for e in events(traced, "histogram", VF0) if e["measure"] == "size_bytes"]
    assert max(map(len, sizes)) == 21


def test_what_is_called_often_is_on_by_fentry(suite: Suite) -> None:
    (meta,) = events(suite["traced"], "meta")
    for probe in meta["probes"]:
        often = probe["name"] in ("save-read", "resume-write", "save-callback")
        assert probe["how"] == ("fentry" if often else "kprobe"), probe


def test_a_flood_by_many_threads_is_counted_to_the_last_call(suite: Suite) -> None:
    flood = suite["flood"]
    assert flood.status == 0, flood.stderr
    for bdf, made in flood.json("flood.json").items():
        found = summary(flood, bdf)
        assert (found["write_calls"], found["written_bytes"]) == (made["calls"], made["bytes"])
        counts = {event["measure"]: event["counts"] for event in events(flood, "histogram", bdf)}
        assert sum(counts["latency_ns"]) == made["calls"]
        sizes = {1 << power: count for power, count in enumerate(counts["size_bytes"]) if count}
        assert sizes == {int(size): count for size, count in made["sizes"].items()}
    last = events(flood, "lost")[-1]
    for key in ("lost_records", "missed_returns", "untracked"):
        assert last[key] == 0, last


def test_every_image_is_followed_to_the_reader(suite: Suite) -> None:
    traced = suite["traced"]
    saves = events(traced, "save", VF0)
    drains = events(traced, "drain", VF0)
    assert [drain["image"] for drain in drains] == [save["image"] for save in saves]
    end = 0
    for save, drain in zip(saves, drains, strict=True):
        assert drain["kind"] == save["kind"]
        assert drain["fw_ns"] == save["fw_ns"]
        assert drain["start_bytes"] >= end
        end = drain["end_bytes"]
        assert end - drain["start_bytes"] - save["image_bytes"] in range(64)
        if save["callback_seen"]:
            assert drain["ready_boot_ns"] == save["boot_ns"]
            assert (
                drain["ready_boot_ns"] + drain["queued_ns"] + drain["drain_ns"]
                <= (drain["boot_ns"])
            )
    assert end == summary(traced, VF0)["read_bytes"]


def test_buffers_are_accounted_for(suite: Suite) -> None:
    traced = suite["traced"]
    saved, loaded = summary(traced, VF0), summary(traced, VF1)
    for side in (saved, loaded):
        assert side["buffers_allocated"] == side["buffers_freed"] > 0
        assert side["mkeys"] >= 1
    assert saved["held_bytes_max"] >= max(saved["image_bytes"])
    saves = events(traced, "save", VF0)
    assert saves[0]["buffer"] == "new"
    # The memory that was set aside for stop-copy.
    assert saves[-1]["buffer"] == "reused"
    assert saved["buffers_reused"] == [save["buffer"] for save in saves].count("reused")


def test_headers_on_their_way_into_the_target(suite: Suite) -> None:
    headers = events(suite["traced"], "header", VF1)
    loaded = summary(suite["traced"], VF1)
    images = [header for header in headers if header["tag"] == "FW_DATA"]
    assert [header["record_bytes"] for header in images] == loaded["load_bytes"]
    first = (headers[0]["tag"], loaded["stream_format"])
    if suite.kernel == KERNEL:
        assert first == ("STOP_COPY_SIZE", "tagged")
        assert headers[0]["stopcopy_size_bytes"] > 0
    else:
        assert first == ("FW_DATA", "plain")


def test_each_temporary_end_has_a_reason(suite: Suite) -> None:
    saved = summary(suite["traced"], VF0)
    reasons = ("idle", "in_flight", "fallback", "unasked")
    parts = [saved[f"temporary_ends_{reason}"] for reason in reasons]
    assert sum(parts) == saved["temporary_ends"] > 0
    assert saved["temporary_ends_fallback"] == 0


def test_an_orderly_migration_is_not_aborted(suite: Suite) -> None:
    assert events(suite["traced"], "abort") == []


def test_the_parts_of_a_save_add_up(suite: Suite) -> None:
    saves = events(suite["traced"], "save", VF0)
    assert [save["kind"] for save in saves][:1] == ["initial"]
    assert [save["kind"] for save in saves][-1:] == ["final"]
    for save in saves:
        assert save["status"] == 0
        assert save["image_bytes"] >= save["query_bytes"] > 0
        if save["callback_seen"]:
            assert save["issue_boot_ns"] + save["fw_ns"] <= save["boot_ns"]


def test_the_states_are_those_of_a_migration(suite: Suite) -> None:
    arcs = [
        (event["old_state"], event["new_state"])
        for event in events(suite["traced"], "state", VF0)
        if event["errno"] == 0
    ]
    migration = ["RUNNING", "PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "STOP"]
    assert arcs == list(itertools.pairwise(migration))


def test_the_loss_line_is_printed_with_zeros(suite: Suite) -> None:
    last = suite["traced"].stdout.strip().splitlines()[-1]
    assert last.startswith("lost 0 (ring)")
    assert "missed 0 (returns)" in last


def test_a_recording_reports_what_the_live_run_printed(suite: Suite) -> None:
    traced = suite["traced"]
    replayed = io.StringIO()
    assert report(traced.folder / "trace.mlxrec", replayed)
    live = traced.stdout.splitlines()
    shown = iter(live)
    # The client's lines are among the live ones; the trace's are all there, in their order.
    missing = [line for line in replayed.getvalue().splitlines() if line not in shown]
    assert missing == []
    assert max(map(len, replayed.getvalue().splitlines())) < 100


@whatever_the_driver
def test_a_save_whose_callback_is_not_seen_is_shown_all_the_same(suite: Suite) -> None:
    blind = suite["blind"]
    assert blind.status == 0, blind.stderr
    client = blind.json("client.json")
    saves = events(blind, "save", VF0)
    assert [save["image_bytes"] for save in saves] == client["image_bytes"]
    assert not any(save["callback_seen"] for save in saves)
    assert all(save["fw_ns"] is None and save["fw_max_ns"] > 0 for save in saves)
    assert summary(blind, VF0)["incomplete_saves"] == len(saves)


@whatever_the_driver
def test_a_dry_run_attaches_nothing_and_lists_the_probes(suite: Suite) -> None:
    dry = suite["dry-run"]
    assert dry.status == 0, dry.stderr
    for symbol in ("mlx5_cmd_exec_cb", "mlx5vf_save_read", "vfio_mig_get_next_state"):
        assert symbol in dry.stdout


def test_a_migration_without_precopy_is_one_final_image(suite: Suite) -> None:
    stop_copy = suite["stop-copy"]
    assert stop_copy.status == 0, stop_copy.stderr
    client = stop_copy.json("client.json")
    assert (client["initial_images"], client["middle_images"], client["final_images"]) == (0, 0, 1)
    assert client["state_hashes_equal"] is True


def test_a_stream_goes_through_a_file(suite: Suite) -> None:
    saved, loaded = suite["to-file"], suite["from-file"]
    assert saved.status == 0, saved.stderr
    assert loaded.status == 0, loaded.stderr
    to, back = saved.json("client.json"), loaded.json("client.json")
    assert to["image_bytes"] == back["image_bytes"]
    assert to["source_state_hash"] == back["target_state_hash"]


def test_one_damaged_byte_is_refused_by_name_and_the_vf_recovers(suite: Suite) -> None:
    damaged, after = suite["damaged"], suite["after-damage"]
    assert damaged.status == 1
    error = one_line(damaged.stderr)
    assert "image 2 (middle)" in error
    assert "EINVAL" in error
    assert after.status == 0, after.stderr
    assert after.json("client.json")["state_hashes_equal"] is True


@whatever_the_driver
@pytest.mark.parametrize(
    ("case", "refused", "syndrome"),
    [
        ("lost", 2, "0x1ab014"),
        ("reordered", 2, "0x1ab014"),
        ("repeated", 3, "0x1ab014"),
        ("damaged", 2, "0x1ab012"),
        ("foreign", 2, "0x1ab013"),
        ("wrong base", 2, "0x1ab013"),
        ("wrong state", 5, "0x1ab016"),
        ("no base", 1, "0x1ab013"),
    ],
)
def test_load_refuses_images_that_do_not_build_on_each_other(
    suite: Suite, case: str, refused: int, syndrome: str
) -> None:
    images = suite["images"]
    assert images.status == 0, images.stderr
    result = images.json("images.json")[case]
    assert result == {
        "refused_image": refused,
        "errno": "EINVAL",
        "syndromes": [syndrome],
        "state_after_reset": "RUNNING",
    }


@whatever_the_driver
def test_load_takes_whole_streams_one_after_the_other(suite: Suite) -> None:
    results = suite["images"].json("images.json")
    for case in ("whole", "other whole"):
        assert results[case]["refused_image"] is None
    assert results["whole"]["hash"] != results["other whole"]["hash"]


def test_the_stream_file_holds_what_was_migrated(suite: Suite) -> None:
    client = suite["to-file"].json("client.json")
    found = examine(suite["to-file"].folder / "state.mlxstream")
    assert found.problems == []
    images = [record for record in found.records if record.kind is not None]
    assert [image.size_bytes for image in images] == client["image_bytes"]
    assert found.file.trailer["state_hash"] == client["source_state_hash"]
    assert found.file.header["kernel"].startswith(f"{suite.kernel.partition('-')[2]}.")


@on_the_series
def test_the_rule_of_the_documentation_holds(suite: Suite) -> None:
    result = suite["own-rule"]
    assert (result.status, result.stdout) == (0, "the rule holds\n"), result.stderr


@on_the_series
def test_between_two_hosts_both_count_the_same(suite: Suite) -> None:
    result = suite["two-hosts"]
    assert result.status == 0, result.stdout + result.stderr
    source, target = result.json("client.json"), result.json("target.json")
    assert (source["result"], target["result"]) == ("done", "done")
    for key in ("image_bytes", "initial_images", "middle_images", "written_bytes"):
        assert source[key] == target[key], key
    assert source["state_hashes_equal"] is target["state_hashes_equal"] is True
    assert source["target_state"] == target["target_state"] == "RUNNING"


@whatever_the_driver
@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("no-device", ["0000:ff:1f.7"]),
        ("no-traced-device", ["0000:ff:1f.7"]),
        ("unbound", [VF1]),
        ("unprivileged-trace", ["root"]),
        ("unprivileged-migrate", []),
        ("without-module", ["mlx5"]),
    ],
)
def test_what_is_missing_is_said_in_one_line(suite: Suite, scenario: str, words: list[str]) -> None:
    result = suite[scenario]
    assert result.status == 1
    assert one_line(result.stderr)
    for word in words:
        assert word in result.stderr


def test_the_recordings_open_with_what_they_are(suite: Suite) -> None:
    meta = events(suite["traced"], "meta")[0]
    assert meta["kernel"].startswith(f"{suite.kernel.partition('-')[2]}.")
    assert all(probe["state"] == "attached" for probe in meta["probes"])
    assert json.dumps(meta)
    assert Path(suite["traced"].folder / "trace.mlxrec").stat().st_size > 0
