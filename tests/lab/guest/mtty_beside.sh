#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest of a lab with VFs: load mtty, make two devices of it, check them, and take all
# that away again. usage: mtty_beside.sh MODULE ID[,ID]...
set -e

modprobe mdev
insmod "$1"
source=6d747479-0000-4000-8000-000000000010
target=6d747479-0000-4000-8000-000000000011
for uuid in $source $target; do
	echo $uuid >/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/create
done
mlxtrace validate --source $source --target $target --only "$2" --json --quiet \
	>"$MLXLAB_OUT/checks"
for uuid in $source $target; do
	echo 1 >/sys/bus/mdev/devices/$uuid/remove
done
rmmod mtty mdev
