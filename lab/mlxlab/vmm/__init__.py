# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab qemu``: two unmodified QEMUs in the lab's guest migrate a VM with a VF."""
