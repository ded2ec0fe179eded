# SPDX-License-Identifier: GPL-2.0-or-later
"""The C compiler: the only authority on a number. Its output is read, never run."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIAGNOSTIC = re.compile(
    r"^(.+?):(\d+):(?:\d+:)? (?:fatal )?(error|note): (.+)$",
    re.MULTILINE,
)
# How gcc and clang say that the text in error is a macro's, used at the place of the note.
_USED_HERE = ("in expansion of macro", "expanded from macro", "in definition of macro")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error of the compiler, where it says it is.

    ``used_at`` are the places through which a macro in error was used.
    """

    file: str
    line: int
    message: str
    used_at: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class CompileError(Error):
    """The compiler refused a source; ``diagnostics`` has every error, first one first."""

    def by_line(self, file: str) -> dict[int, Diagnostic]:
        """Return the first error of each line of ``file``, macros used there included."""
        found: dict[int, Diagnostic] = {}
        for diagnostic in self.diagnostics:
            for name, line in ((diagnostic.file, diagnostic.line), *diagnostic.used_at):
                if name == file:
                    found.setdefault(line, diagnostic)
        return found

    def __init__(self, diagnostics: Sequence[Diagnostic], fallback: str = "") -> None:
        super().__init__(str(diagnostics[0]) if diagnostics else fallback)
        self.diagnostics = tuple(diagnostics)


class Compiler:
    """A C compiler with the options that every run of one generation shares."""

    def __init__(
        self, command: str = "cc", includes: Sequence[Path] = (), options: Sequence[str] = ()
    ) -> None:
        """``command`` may hold options of its own: ``clang --target=powerpc64le-linux-gnu``."""
        self.argv = tuple(shlex.split(command))
        self.options = (*options, *(f"-I{path}" for path in includes))
        if not self.argv:
            raise Error("the compiler command is empty", "name a compiler, such as --cc gcc")

    def including(self, folder: Path) -> Compiler:
        """Return this compiler with one more directory to search, after the others."""
        other = copy.copy(self)
        other.options = (*self.options, f"-I{folder}")
        return other

    @cached_property
    def target(self) -> str:
        """The compiler's target triplet, such as ``x86_64-linux-gnu``."""
        return self._run(["-dumpmachine"]).strip()

    @cached_property
    def include_path(self) -> tuple[Path, ...]:
        """The directories that the compiler searches for ``<header>``, in order."""
        text = self._run(["-E", "-v", "-x", "c", os.devnull], stderr=True)
        _, _, rest = text.partition("#include <...> search starts here:")
        listed, _, _ = rest.partition("End of search list")
        return tuple(Path(line.strip()) for line in listed.splitlines() if line.strip())

    def preprocess(self, source: str, *options: str) -> str:
        """Return ``source`` preprocessed.

        Raises:
            CompileError: for instance an included header that does not exist.
        """
        return self._run([*self.options, *options, "-E", "-x", "c", "-"], source)

    def compile(self, source: str, output: Path, *options: str) -> None:
        """Compile ``source`` to the object file ``output``.

        Raises:
            CompileError: with the compiler's errors.
        """
        # An undefined macro with arguments would pass for a function, and not be named.
        fixed = ["-Werror=implicit-function-declaration", "-std=gnu11", "-O0", "-c", "-x", "c"]
        fixed += ["-", "-o", str(output)]
        self._run([*self.options, *options, *fixed], source)

    def check(self, source: str, *, warnings: bool = False) -> None:
        """Have the compiler check ``source``, static assertions included.

        With ``warnings``, those that the source itself declares to be errors count.

        Raises:
            CompileError: with the compiler's errors.
        """
        quiet = [] if warnings else ["-w"]
        self._run([*self.options, *quiet, "-std=gnu11", "-fsyntax-only", "-x", "c", "-"], source)

    def _run(self, arguments: Sequence[str], source: str = "", *, stderr: bool = False) -> str:
        try:
            done = subprocess.run(
                [*self.argv, *arguments],
                input=source,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise Error(
                f"there is no C compiler called {self.argv[0]}",
                "install gcc, or name one with --cc",
            ) from None
        except OSError as error:
            raise Error(f"cannot run {self.argv[0]}: {error.strerror}") from None
        if done.returncode:
            found = errors(done.stderr)
            lines = done.stderr.strip().splitlines()
            text = lines[-1] if lines else f"exit status {done.returncode}"
            raise CompileError(found, f"{self.argv[0]} failed: {text}")
        return done.stderr if stderr else done.stdout


def errors(stderr: str) -> list[Diagnostic]:
    """Return the errors in what a compiler wrote to standard error."""
    found: list[Diagnostic] = []
    for file, line, kind, message in _DIAGNOSTIC.findall(stderr):
        if kind == "error":
            found.append(Diagnostic(file, int(line), message))
        elif found and message.startswith(_USED_HERE):
            last = found[-1]
            used_at = (*last.used_at, (file, int(line)))
            found[-1] = Diagnostic(last.file, last.line, last.message, used_at)
    return found
