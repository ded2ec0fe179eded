# SPDX-License-Identifier: GPL-2.0-or-later
"""The gates that ``mlxpatch verify`` runs, one module each."""
