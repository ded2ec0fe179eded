# SPDX-License-Identifier: GPL-2.0-or-later
"""``mlxlab matrix``: ``mlxtrace validate`` on several kernels or revisions, as one table."""
