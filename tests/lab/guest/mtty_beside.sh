#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest of a lab with VFs: load mtty, make two devices of it, check them, and take all
# that away again. usage: mtty_beside.sh MODULE [ID]...
set -e

module=$1
shift
modprobe mdev
insmod "$module"
MLXLAB_VF0=6d747479-0000-4000-8000-000000000010
MLXLAB_VF1=6d747479-0000-4000-8000-000000000011
export MLXLAB_VF0 MLXLAB_VF1
for uuid in $MLXLAB_VF0 $MLXLAB_VF1; do
	echo $uuid >/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/create
done
python -m tests.lab.guest.mtty "$@" >"$MLXLAB_OUT/checks"
for uuid in $MLXLAB_VF0 $MLXLAB_VF1; do
	echo 1 >/sys/bus/mdev/devices/$uuid/remove
done
rmmod mtty mdev
