#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# mlxpatch install, status and uninstall on a host with VFs: install.sh FOLDER-OF-MODULES.
# The guest's root is an overlay, so that all of it is gone with the VM.

modules=$1
updates=/lib/modules/$(uname -r)/updates

migrate() {
	mlxtrace migrate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --json "$MLXLAB_OUT/$1.json" \
		>"$MLXLAB_OUT/$1.migrate" 2>&1 || exit 10
}

# A host with the modules that are needed here and no others: depmod reads every one, and to have it
# read thousands through 9p takes minutes.
release=$(uname -r)
tree=/run/tree
for module in $(. "$MLXLAB_RUN/settings" && echo "$modules") vfio_pci; do
	/sbin/modprobe --show-depends "$module" | while read -r insmod file _; do
		[ "$insmod" = insmod ] || continue
		target=$tree/${file#"/lib/modules/$release/"}
		mkdir -p "$(dirname "$target")" && cp "$file" "$target" || exit 1
	done
done
cp "/lib/modules/$release"/modules.builtin* "/lib/modules/$release/modules.order" $tree/ || exit 11
mount --bind $tree "/lib/modules/$release" && /sbin/depmod || exit 11
# The lab's own driver is in the updates folder as well, and which of two is preferred is open.
mv "$updates/mlx5-vfio-pci.ko" /run/stock.ko || exit 11

group=$(basename "$(readlink "/sys/bus/pci/devices/$MLXLAB_VF0/iommu_group")")
(
	exec 9<>"/dev/vfio/$group" || exit 12
	mlxpatch install "$modules" --no-initramfs >"$MLXLAB_OUT/refused" 2>&1
	echo $? >"$MLXLAB_OUT/refused.status"
)

[ ! -e "$updates/mlxtrace" ] || exit 13
mlxpatch install "$modules" >"$MLXLAB_OUT/install" 2>&1 || exit 14
mlxpatch status --json >"$MLXLAB_OUT/not-yet-loaded.json" || exit 15
sh "$MLXLAB_GUEST/vfs" down || exit 16
for module in vfio_iommu_type1 vfio_pci_core vfio vfio_virqfd; do
	[ ! -e "/sys/module/$module" ] || /sbin/modprobe -r "$module" || exit 17
done
sh "$MLXLAB_GUEST/vfs" up || exit 18
mlxpatch status --json >"$MLXLAB_OUT/installed.json" || exit 19
migrate ours

sh "$MLXLAB_GUEST/vfs" down || exit 21
for module in vfio_iommu_type1 vfio_pci_core vfio vfio_virqfd; do
	[ ! -e "/sys/module/$module" ] || /sbin/modprobe -r "$module" || exit 22
done
mv /run/stock.ko "$updates/mlx5-vfio-pci.ko" || exit 24
mlxpatch uninstall >"$MLXLAB_OUT/uninstall" 2>&1 || exit 23
sh "$MLXLAB_GUEST/vfs" up || exit 25
mlxpatch status --json >"$MLXLAB_OUT/uninstalled.json" || exit 26
migrate stock
umount "/lib/modules/$release"
