# SPDX-License-Identifier: GPL-2.0-or-later
"""Python bindings of kernel interfaces: ``vfio`` and ``mlx5_ifc`` of Linux 6.12.

:func:`load` gives those of another kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

__all__ = ["load"]


def load(header: str, kernel: Path) -> ModuleType:
    """Generate the bindings of ``header`` in the kernel tree ``kernel``, and import them.

    The module is kept in the cache and generated again when it would differ.

    Raises:
        genbindings.errors.Error: the header is not there, or cannot be turned into bindings.
    """
    # Only this function needs the generator: importing the shipped bindings must stay quick.
    from importlib.util import module_from_spec, spec_from_file_location

    from genbindings.errors import Error
    from genbindings.generate import Options, text
    from genbindings.locate import cache
    from genbindings.writer import write

    rendered, found, _ = text(Options(header, kernel=kernel), "ctypes")
    name = found.name.removesuffix(".h").replace("-", "_")
    path = cache() / "bindings" / found.sha256[:16] / f"{name}.py"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error(f"cannot write {path.parent}: {error.strerror}") from None
    write(path, rendered)
    spec = spec_from_file_location(f"mlxuapi_{found.sha256[:16]}.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
