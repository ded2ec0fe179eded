#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest: the checks of a log of what the device writes to, on a firmware that has one.

set -u

driver=/sys/bus/pci/drivers/mlx5_vfio_pci
# The driver asks for capabilities when it takes a VF.
set_tracking() {
	mlxlab fw "$MLXLAB_PF" "page_tracking=$1" || exit
	for vf in $MLXLAB_VFS; do
		echo "$vf" >$driver/unbind
		echo "$vf" >/sys/bus/pci/drivers_probe
	done
}

set_tracking 1
mlxtrace validate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --only C44,C45 --json --quiet \
	>"$MLXLAB_OUT/checks.jsonl"
status=$?
set_tracking 0
exit $status
