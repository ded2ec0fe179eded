# SPDX-License-Identifier: GPL-2.0-or-later
"""A throw-away git repository: one commit of the files that a series touches, and its patches.

No hook, template or configuration of the user or the system reaches it, and who commits and when
is fixed: the same series on the same base gives the same commits everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from email.utils import parseaddr
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch.apply import Overlay, apply_patch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlxpatch.series import Patch, Series

NAME, ADDRESS = "mlxtrace project", "patches@mlxtrace.invalid"
_DATE = "2022-12-11T22:15:18+0000"
_EXPORT = ("--full-index", "--zero-commit", "--no-signature", "--no-thread", "--no-base")


class Repository:
    """A repository in ``folder``, which nobody else uses."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("git") is None:
            raise Error("git is missing", "run: apt-get install git (as root)")
        self.folder = folder
        self._home = folder.with_name(f"{folder.name}.home")
        for path in (folder, self._home):
            path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "--template=", "-b", "main")

    def git(self, *words: str, input_: bytes = b"") -> bytes:
        """Run git and return what it prints.

        Raises:
            Error: it fails, with its last line.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        own = {
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": NAME,
            "GIT_AUTHOR_EMAIL": ADDRESS,
            "GIT_AUTHOR_DATE": _DATE,
            "GIT_COMMITTER_NAME": NAME,
            "GIT_COMMITTER_EMAIL": ADDRESS,
            "GIT_COMMITTER_DATE": _DATE,
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        fixed = ("core.hooksPath=/dev/null", "core.autocrlf=false", "core.attributesFile=/dev/null")
        options = [word for value in fixed for word in ("-c", value)]
        done = subprocess.run(
            ["git", *options, "-C", str(self.folder), *words],
            env={**kept, **own},
            capture_output=True,
            input=input_,
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise Error(f"git {words[0]}: {said[0] if said else f'exit status {done.returncode}'}")
        return done.stdout

    def start(self, series: Iterable[Series], tree: Path) -> str:
        """Commit the files of ``tree`` that any of ``series`` touches; return the commit."""
        overlay = Overlay(tree)
        for path in sorted({path for one in series for path in one.files}):
            data = overlay.read(path)
            if data is not None:
                overlay.files[path] = data
        overlay.write(self.folder)
        return self._commit("base", ())

    def commit_all(self, series: Series) -> str:
        """Commit each patch of ``series`` on the present commit; return the last one.

        Raises:
            Error: one does not apply.
        """
        commit = ""
        for patch in series.patches:
            overlay = Overlay(self.folder)
            apply_patch(patch, overlay)
            overlay.write()
            commit = self._commit(f"{patch.subject or patch.name}\n\n{patch.body}", _author(patch))
        return commit

    def am(self, series: Series) -> None:
        """Commit each patch as git am does, from its file."""
        for patch in series.patches:
            try:
                self.git(
                    *("am", "-q", "--keep-cr", "--no-3way", "--whitespace=nowarn"),
                    *("--patch-format=mbox", "-"),
                    input_=patch.data,
                )
            except Error as error:
                raise Error(f"{patch.name}: {error}") from None

    def export(self, base: str, prefix: str, *, numbered: bool, cover: bool) -> list[bytes]:
        """Return the files of git format-patch for the commits after ``base``, in order."""
        out = self.folder.with_name(f"{self.folder.name}.export")
        shutil.rmtree(out, ignore_errors=True)
        self.git(
            *("format-patch", "-q", *_EXPORT, f"--subject-prefix={prefix}"),
            "--numbered" if numbered else "--no-numbered",
            "--cover-letter" if cover else "--no-cover-letter",
            *("-o", str(out), f"{base}..HEAD"),
        )
        return [path.read_bytes() for path in sorted(out.iterdir())]

    def range_diff(self, base: str, old: str, new: str, *options: str) -> str:
        """Return git range-diff of two series on ``base``."""
        words = ("range-diff", "--no-color", *options, f"{base}..{old}", f"{base}..{new}")
        return self.git(*words).decode("utf-8", "replace")

    def _commit(self, message: str, author: tuple[str, ...]) -> str:
        self.git("add", "-A")
        self.git(
            *("commit", "-q", "--allow-empty", "--cleanup=whitespace", *author, "-F", "-"),
            input_=message.encode("utf-8", "surrogateescape"),
        )
        return self.git("rev-parse", "HEAD").decode().strip()


def _author(patch: Patch) -> tuple[str, ...]:
    name, address = parseaddr(patch.author)
    if not address:
        return ()
    clean = re.sub(r"[<>\n]", "", name or address)
    return (f"--author={clean} <{address}>",)


def prefix(patch: Patch) -> str:
    """Return the ``PATCH v2`` of ``[PATCH v2 1/3]``."""
    return re.sub(r"\s*\b\d+/\d+\b", "", patch.mail.tags).strip() or "PATCH"
