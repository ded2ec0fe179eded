# SPDX-License-Identifier: GPL-2.0-or-later
"""Trace and exercise VFIO PRE_COPY migration of mlx5 virtual functions."""
