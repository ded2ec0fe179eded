#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest: validate on VFs that are not bound to the driver, one to none, one to vfio-pci.
# Each run's stdout, stderr and status, and what the VFs have before and after, in $MLXLAB_OUT.
#
# usage: bind.sh

set -eu

pci=/sys/bus/pci

has() {
	for vf in "$MLXLAB_VF0" "$MLXLAB_VF1"; do
		driver=$(readlink "$pci/devices/$vf/driver" || true)
		echo "$vf ${driver##*/} $(cat "$pci/devices/$vf/driver_override")"
	done
}

rebind() { # BDF OVERRIDE
	echo "$1" >"$pci/devices/$1/driver/unbind" || true
	echo "$2" >"$pci/devices/$1/driver_override"
	echo "$1" >$pci/drivers_probe
}

validate() { # NAME OPTION...
	name=$1
	shift
	status=0
	mlxtrace validate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --only C1,C10,C31 --quiet "$@" \
		>"$MLXLAB_OUT/$name.stdout" 2>"$MLXLAB_OUT/$name.stderr" || status=$?
	echo $status >"$MLXLAB_OUT/$name.status"
}

modprobe vfio-pci
echo "$MLXLAB_VF0" >"$pci/devices/$MLXLAB_VF0/driver/unbind"
echo >"$pci/devices/$MLXLAB_VF0/driver_override"
rebind "$MLXLAB_VF1" vfio-pci
has >"$MLXLAB_OUT/before"
validate refused
validate bound --bind
has >"$MLXLAB_OUT/after"
for vf in "$MLXLAB_VF0" "$MLXLAB_VF1"; do
	rebind "$vf" mlx5_vfio_pci 2>/dev/null
done
modprobe -r vfio-pci
has >"$MLXLAB_OUT/end"
