# SPDX-License-Identifier: GPL-2.0-or-later
"""A series is the same whichever way it arrives."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import tarfile
from email.header import decode_header, make_header
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxpatch import series
from mlxpatch.gitrepo import Repository

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 14


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a commit and 14 more, with awkward messages."""
    folder = tmp_path_factory.mktemp("origin") / "linux"
    repo = Repository(folder)
    (folder / "drivers").mkdir()
    (folder / "drivers/one.c").write_text("".join(f"line {n}\n" for n in range(99)))
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "base")
    for number in range(1, COUNT + 1):
        text = (folder / "drivers/one.c").read_text()
        text = text.replace(f"line {number * 5}\n", f"lïne {number}\n")
        (folder / "drivers/one.c").write_text(text)
        message = (
            f"vfio: Change line {number}, whose subject is long enough to be folded in två\n\n"
            f"From now on it is {number}.\n\n---\nnot a rule\n"
        )
        repo.git("add", "-A")
        author = "--author=Jürgen Ä <j@example.invalid>"
        repo.git("commit", "-q", author, "-F", "-", input_=message.encode())
    return folder


def formatted(origin: Path, *words: str) -> bytes:
    return Repository(origin).git("format-patch", *words, f"HEAD~{COUNT}")


def base_of(origin: Path) -> str:
    return Repository(origin).git("rev-parse", f"HEAD~{COUNT}").decode().strip()


def as_files(origin: Path, work: Path) -> str:
    formatted(origin, "-q", "--cover-letter", "-v2", f"--base={base_of(origin)}", "-o", str(work))
    return str(work)


def as_folder(origin: Path, work: Path) -> str:
    as_files(origin, work)
    names = sorted(path.name for path in work.glob("*.patch"))
    (work / "series").write_text("\n".join(names[1:]))
    return str(work)


def as_mbox(origin: Path, work: Path) -> str:
    text = formatted(origin, "--stdout", "--cover-letter", "-v2", f"--base={base_of(origin)}")
    (work / "v2.mbox").write_bytes(text)
    return str(work / "v2.mbox")


def as_joined_files(origin: Path, work: Path) -> str:
    """What cat makes of the files of git format-patch, which end without an empty line."""
    base = f"--base={base_of(origin)}"
    formatted(origin, "-q", "--cover-letter", "-v2", "--no-signature", base, "-o", str(work))
    files = sorted(work.glob("*.patch"))
    joined = work / "joined.mbx"
    joined.write_bytes(b"".join(path.read_bytes().rstrip(b"\n") + b"\n" for path in files))
    return str(joined)


def as_mbox_gz(origin: Path, work: Path) -> str:
    path = work / "t.mbox.gz"
    path.write_bytes(gzip.compress(Path(as_mbox(origin, work)).read_bytes()))
    return str(path)


def as_thread(origin: Path, work: Path) -> str:
    """An mbox as a list has it: version 1 too, answers, any order, encoded."""
    mails = formatted(origin, "--stdout", "--cover-letter", "-v2", f"--base={base_of(origin)}")
    parts = re.split(rb"(?m)^(?=From [0-9a-f]{40} )", mails)[1:]
    old = formatted(origin, "--stdout")
    line = b"From x@y Thu Jan  1 00:00:00 1970\n"
    answer = line + b"Subject: Re: [PATCH v2 01/14] vfio: x\n\n> +++ b/x\nno\n\n"
    encoded = EmailMessage()
    text = parts[3].partition(b"\n\n")
    for name in ("From", "Subject"):
        value = re.search(rf"(?m)^{name}: (.*(?:\n .*)*)".encode(), text[0])
        assert value
        encoded[name] = str(make_header(decode_header(value[1].decode()))).replace("\n", "")
    encoded.set_content(text[2].decode(), cte="base64")
    parts[3] = line + encoded.as_bytes() + b"\n"
    path = work / "thread.mbx"
    path.write_bytes(b"".join([*reversed(parts[2:]), answer, old, *parts[:2]]))
    return str(path)


def as_b4(origin: Path, work: Path) -> str:
    """What b4 am writes: an mbox without the cover letter, which is in a file of its own."""
    mails = formatted(origin, "--stdout", "--cover-letter", "-v2", f"--base={base_of(origin)}")
    parts = re.split(rb"(?m)^(?=From [0-9a-f]{40} )", mails)[1:]
    line = b"From git@z Thu Jan  1 00:00:00 1970\n"
    bodies = [line + part.partition(b"\n")[2] for part in parts]
    (work / "v2_vfio.cover").write_bytes(bodies[0].partition(b"\n")[2])
    (work / "v2_vfio.mbx").write_bytes(b"".join(bodies[1:]))
    return str(work / "v2_vfio.mbx")


def as_tarball(origin: Path, work: Path, kind: str = "gz") -> str:
    files = work / "files"
    as_files(origin, files)
    path = work / f"v2.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
        archive.add(files, "vfio-v2")
    return str(path)


def as_tarball_xz(origin: Path, work: Path) -> str:
    return as_tarball(origin, work, "xz")


def as_attachments(origin: Path, work: Path) -> str:
    text = formatted(
        *(origin, "--stdout", "--cover-letter", "-v2", f"--base={base_of(origin)}", "--attach")
    )
    (work / "attached.mbox").write_bytes(text)
    return str(work / "attached.mbox")


def as_range(origin: Path, work: Path) -> str:  # noqa: ARG001
    return f"{origin}:HEAD~{COUNT}..HEAD"


FORMS: list[Callable[[Path, Path], str]] = [
    as_files,
    as_folder,
    as_mbox,
    as_mbox_gz,
    as_joined_files,
    as_thread,
    as_b4,
    as_attachments,
    as_tarball,
    as_tarball_xz,
    as_range,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_series(
    origin: Path, tmp_path: Path, form: Callable[[Path, Path], str]
) -> None:
    found = series.load(form(origin, tmp_path))
    assert [patch.subject for patch in found.patches] == [
        f"vfio: Change line {number}, whose subject is long enough to be folded in två"
        for number in range(1, COUNT + 1)
    ]
    assert {patch.author for patch in found.patches} == {"Jürgen Ä <j@example.invalid>"}
    assert all(patch.files == ("drivers/one.c",) for patch in found.patches)
    assert found.patches[2].body.startswith("From now on it is 3.")
    assert found.base_commit == base_of(origin)
    assert found.foreign == (form is not as_folder)
    if form is not as_range:
        assert found.cover is not None
        assert (found.cover.number, found.cover.count, found.cover.version) == (0, COUNT, 2)
    tree = tmp_path / "tree"
    work = Repository(origin)
    work.git("worktree", "add", "-q", "--detach", str(tree), base_of(origin))
    try:
        series.apply(found, tree)
        assert (tree / "drivers/one.c").read_bytes() == (origin / "drivers/one.c").read_bytes()
    finally:
        work.git("worktree", "remove", "--force", str(tree))


def test_a_range_is_looked_for_in_the_current_folder(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(origin)
    assert len(series.load("HEAD~3..HEAD").patches) == 3
    with pytest.raises(Error, match="git cannot read"):
        series.load("nowhere..HEAD")
    with pytest.raises(UsageError, match="is no git range"):
        series.load(f"{origin}:--output=evil")


def test_one_file_of_many_is_a_patch(origin: Path, tmp_path: Path) -> None:
    as_files(origin, tmp_path)
    found = series.load(next(tmp_path.glob("v2-0003-*.patch")))
    assert (len(found.patches), found.patches[0].mail.number) == (1, 3)


def test_a_foreign_series_can_be_written_as_files(origin: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    found = series.load(as_mbox(origin, tmp_path), workdir=kept)
    again = series.read(kept)
    assert again.digest() == found.digest()
    assert found.folder == kept
    assert again.cover is not None


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (
            lambda data: data[: data.rindex(b"\n-line")],
            r"patch 0014-vfio.*hunk #1 ends in the middle",
        ),
        (lambda data: data[: data.rindex(b"\nFrom ")], r"not complete: patch 14 of 14 is missing"),
        (lambda data: data.replace(b"\n", b"\r\n"), r"its lines end in CR LF"),
        (lambda data: data + data, r"has patch 1/14 twice"),
        (
            lambda data: data[: data.index(b"\n\n")] + b"\n\nhello\n",
            r"no patch in it|no diff in it",
        ),
    ],
)
def test_a_damaged_mbox_is_named(
    origin: Path, tmp_path: Path, cut: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "cut.mbox"
    path.write_bytes(cut(Path(as_mbox(origin, tmp_path)).read_bytes()))
    with pytest.raises(Error, match=said) as caught:
        series.load(path)
    assert caught.value.hint


@pytest.mark.parametrize("signature", ["--signature=2.39.5", "--no-signature"])
def test_a_patch_that_is_cut_anywhere_is_whole_or_refused(tmp_path: Path, signature: str) -> None:
    work = tmp_path / "repository"
    repository = Repository(work)
    for name in ("one", "two", "gone"):
        (work / name).write_text("".join(f"line {number}\n" for number in range(40)))
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "base")
    lines = (work / "one").read_text().replace("line 3\n", "").replace("line 30", "other 30")
    (work / "one").write_text(lines)
    (work / "two").rename(work / "moved")
    (work / "gone").unlink()
    (work / "more").write_text("new\n")
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "change")
    whole = repository.git("format-patch", "--stdout", signature, "-1")
    wanted = series.make("whole", whole).diffs
    assert len(wanted) == 4
    refused = 0
    for end in range(len(whole)):
        try:
            found = series.make("cut", whole[:end])
        except Error:
            refused = end
            continue
        assert found.diffs == wanted, whole[:end]
    # All but the end of the signature's text.
    assert len(whole) - refused < 20


def test_a_hostile_tarball_writes_nothing(origin: Path, tmp_path: Path) -> None:
    as_files(origin, tmp_path / "files")
    patch = next((tmp_path / "files").glob("*0001-*.patch")).read_bytes()
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../../evil-1.patch", "/tmp/evil-2.patch"):
            member = tarfile.TarInfo(name)
            member.size = len(patch)
            archive.addfile(member, io.BytesIO(patch))
        link = tarfile.TarInfo("evil-3.patch")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    kept = tmp_path / "kept"
    found = series.load(path, workdir=kept)
    assert len(found.patches) == 2
    assert sorted(path.name for path in kept.iterdir()) == [
        "evil-1.patch",
        "evil-2.patch",
        "series",
    ]
    assert not list(tmp_path.parent.rglob("evil-1.patch")) or [
        path.parent for path in tmp_path.parent.rglob("evil-1.patch")
    ] == [kept]


def test_an_archive_that_is_damaged_or_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.patch.gz"
    bomb.write_bytes(gzip.compress(bytes(65 << 20)))
    with pytest.raises(Error, match="unpacks to more than 64 MiB"):
        series.load(bomb)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(gzip.compress(b"x" * 5000)[:50])
    with pytest.raises(Error, match="is damaged"):
        series.load(cut)


def test_git_agrees_with_what_is_read(origin: Path, tmp_path: Path) -> None:
    """Oracle: git mailinfo's subject and author for each mail of the mbox."""
    found = series.load(as_mbox(origin, tmp_path))
    for patch in found.patches:
        said = subprocess.run(
            ["git", "mailinfo", tmp_path / "message", tmp_path / "diff"],
            input=patch.data,
            capture_output=True,
            check=True,
        ).stdout.decode()
        assert f"Subject: {patch.subject}\n" in said
        assert (tmp_path / "diff").read_text().endswith(patch.diff)
