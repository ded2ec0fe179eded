// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PF: a PCI device with SR-IOV that driver_override gives to this driver.
 * The PF must be of a kind whose VFs have resources and can be reset.
 */
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "mlx5_lab.h"

#define LAB_FIRST_VHCA_ID 0x40

/*
 * Defaults for a virtual machine that is emulated: a tenth of the size and of
 * the bandwidths of a ConnectX-7 VF with a few hundred MB of state, so that
 * the times keep their proportions (docs/lab.md has the reasoning).
 */
#define LAB_DEFAULT_STATE_BYTES (8 << 20)
static const struct lab_knobs lab_default_knobs = {
	.dirty_bytes_per_s = 8 << 20,
	.working_set_bytes = 1 << 20,
	.save_bytes_per_s = 200 << 20,
	.load_bytes_per_s = 200 << 20,
	.latency_us = 500,
	.chunk_bytes = 4 << 20,
};

/* mlx5_core's: after that long it takes a command for lost. */
#define LAB_DEFAULT_TIMEOUT_MS 60000

struct workqueue_struct *lab_workqueue;
static struct pci_driver lab_driver;

u16 lab_vhca_id(const struct lab_vf *vf)
{
	return LAB_FIRST_VHCA_ID + vf->id;
}

struct lab_vf *lab_vf_by_vhca_id(struct lab_pf *pf, u16 vhca_id)
{
	int id = (int)vhca_id - LAB_FIRST_VHCA_ID;

	return id >= 0 && id < pf->num_vfs ? &pf->vfs[id] : NULL;
}

static struct lab_pf *lab_pf_of_vf(struct pci_dev *virtfn)
{
	struct pci_dev *physfn;

	if (!virtfn->is_virtfn)
		return NULL;
	physfn = pci_physfn(virtfn);
	return pci_dev_driver(physfn) == &lab_driver ? pci_get_drvdata(physfn) : NULL;
}

/* Return the VF that a PCI device is, or NULL for every other one. */
struct lab_vf *lab_vf_of(struct pci_dev *pdev)
{
	struct lab_pf *pf = lab_pf_of_vf(pdev);
	int id = pf ? pci_iov_vf_id(pdev) : -1;

	return id >= 0 && id < pf->num_vfs ? &pf->vfs[id] : NULL;
}

/* Returns with the interface locked, until mlx5_vf_put_core_dev(). */
struct mlx5_core_dev *mlx5_vf_get_core_dev(struct pci_dev *pdev)
{
	struct lab_pf *pf = lab_pf_of_vf(pdev);

	if (!pf)
		return NULL;
	mutex_lock(&pf->intf_lock);
	return pf->mdev;
}
EXPORT_SYMBOL(mlx5_vf_get_core_dev);

void mlx5_vf_put_core_dev(struct mlx5_core_dev *mdev)
{
	mutex_unlock(&lab_pf_of(mdev)->intf_lock);
}
EXPORT_SYMBOL(mlx5_vf_put_core_dev);

int mlx5_sriov_blocking_notifier_register(struct mlx5_core_dev *mdev, int vf_id,
					  struct notifier_block *nb)
{
	struct lab_pf *pf = lab_pf_of(mdev);

	if (vf_id < 0 || vf_id >= pf->num_vfs)
		return -EINVAL;
	return blocking_notifier_chain_register(&pf->vfs[vf_id].notifiers, nb);
}
EXPORT_SYMBOL(mlx5_sriov_blocking_notifier_register);

void mlx5_sriov_blocking_notifier_unregister(struct mlx5_core_dev *mdev, int vf_id,
					     struct notifier_block *nb)
{
	struct lab_pf *pf = lab_pf_of(mdev);

	if (vf_id >= 0 && vf_id < pf->num_vfs)
		blocking_notifier_chain_unregister(&pf->vfs[vf_id].notifiers, nb);
}
EXPORT_SYMBOL(mlx5_sriov_blocking_notifier_unregister);

static void lab_free_vfs(struct lab_pf *pf)
{
	int i;

	for (i = 0; i < pf->num_vfs; i++) {
		debugfs_remove_recursive(pf->vfs[i].dir);
		lab_faults_clear(&pf->vfs[i].faults);
		lab_state_free(&pf->vfs[i].state);
		mutex_destroy(&pf->vfs[i].lock);
	}
	kvfree(pf->vfs);
	pf->vfs = NULL;
	pf->num_vfs = 0;
}

static void lab_disable_work(struct work_struct *work)
{
	struct lab_vf *vf = container_of(work, struct lab_vf, disable);

	blocking_notifier_call_chain(&vf->notifiers, MLX5_PF_NOTIFY_DISABLE_VF, NULL);
}

static int lab_alloc_vfs(struct lab_pf *pf, int num_vfs)
{
	int i, ret;

	pf->vfs = kvcalloc(num_vfs, sizeof(*pf->vfs), GFP_KERNEL);
	if (!pf->vfs)
		return -ENOMEM;
	for (i = 0; i < num_vfs; i++) {
		struct lab_vf *vf = &pf->vfs[i];

		vf->pf = pf;
		vf->id = i;
		vf->knobs = lab_default_knobs;
		vf->migratable = true;
		lab_faults_init(&vf->faults, false);
		INIT_WORK(&vf->disable, lab_disable_work);
		mutex_init(&vf->lock);
		BLOCKING_INIT_NOTIFIER_HEAD(&vf->notifiers);
		pf->num_vfs = i + 1;
		ret = lab_state_resize(&vf->state, LAB_DEFAULT_STATE_BYTES);
		if (ret) {
			lab_free_vfs(pf);
			return ret;
		}
	}
	return 0;
}

static void lab_name_vfs(struct lab_pf *pf)
{
	struct pci_dev *virtfn = NULL;
	int id;

	for_each_pci_dev(virtfn) {
		if (!virtfn->is_virtfn || pci_physfn(virtfn) != pf->pdev)
			continue;
		id = pci_iov_vf_id(virtfn);
		if (id < 0 || id >= pf->num_vfs)
			continue;
		strscpy(pf->vfs[id].name, pci_name(virtfn), sizeof(pf->vfs[id].name));
		lab_debugfs_add_vf(&pf->vfs[id]);
	}
}

/* The drivers are gone, so nothing of theirs may be on its way. */
static void lab_check_async(struct lab_pf *pf)
{
	int tries = 100;

	/* A driver may go on as soon as its callback has run, a moment earlier. */
	while (atomic_read(&pf->async_running) && tries--)
		usleep_range(1000, 2000);
	if (atomic_read(&pf->async_running))
		lab_assert_fired(pf, LAB_ASSERT_LEFT_AT_EXIT,
				 "%d asynchronous commands left when the VFs went away",
				 atomic_read(&pf->async_running));
}

static void lab_disable_sriov(struct lab_pf *pf)
{
	int i;

	if (!pf->num_vfs)
		return;
	lab_async_abort(pf);
	for (i = 0; i < pf->num_vfs; i++)
		blocking_notifier_call_chain(&pf->vfs[i].notifiers,
					     MLX5_PF_NOTIFY_DISABLE_VF, NULL);
	pci_disable_sriov(pf->pdev);
	lab_check_async(pf);
	/* Commands on their way hold pointers to the VFs. */
	flush_workqueue(lab_workqueue);
	lab_async_abort(pf);
	while (atomic_read(&pf->async_running))
		usleep_range(100, 200);
	lab_free_vfs(pf);
}

static int lab_sriov_configure(struct pci_dev *pdev, int num_vfs)
{
	struct lab_pf *pf = pci_get_drvdata(pdev);
	int ret;

	if (!num_vfs) {
		lab_disable_sriov(pf);
		return 0;
	}
	ret = lab_alloc_vfs(pf, num_vfs);
	if (ret)
		return ret;
	ret = pci_enable_sriov(pdev, num_vfs);
	if (ret) {
		lab_free_vfs(pf);
		return ret;
	}
	lab_name_vfs(pf);
	return num_vfs;
}

static void lab_free_caps(struct mlx5_core_dev *mdev)
{
	int i;

	for (i = 0; i < MLX5_CAP_NUM; i++)
		kvfree(mdev->caps.hca[i]);
}

static int lab_alloc_caps(struct mlx5_core_dev *mdev)
{
	static const int types[] = {
		MLX5_CAP_GENERAL, MLX5_CAP_GENERAL_2, MLX5_CAP_ADV_VIRTUALIZATION,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		mdev->caps.hca[types[i]] =
			kvzalloc(sizeof(*mdev->caps.hca[0]), GFP_KERNEL);
		if (!mdev->caps.hca[types[i]])
			return -ENOMEM;
	}
	/* adv_virtualization is a knob: no log of what a VF writes to, unless asked for. */
	lab_put_bit(mdev->caps.hca[MLX5_CAP_GENERAL]->cur, LAB_CAP_MIGRATION, true);
	lab_put_bit(mdev->caps.hca[MLX5_CAP_GENERAL]->cur, LAB_CAP_HCA_CAP_2, true);
	lab_put_bit(mdev->caps.hca[MLX5_CAP_GENERAL_2]->cur, LAB_CAP2_MULTI_LOAD, true);
	lab_put_bit(mdev->caps.hca[MLX5_CAP_GENERAL_2]->cur, LAB_CAP2_TRACKING_STATE,
		    true);
	return 0;
}

static void lab_remove(struct pci_dev *pdev)
{
	struct lab_pf *pf = pci_get_drvdata(pdev);
	const char *kind = NULL;
	unsigned long left;

	lab_disable_sriov(pf);
	left = lab_logs_left(pf);
	if (left)
		lab_assert_fired(pf, LAB_ASSERT_LEFT_AT_EXIT,
				 "%lu logs and queues left when the PF went away", left);
	left = lab_objects_left(pf, &kind);
	if (left)
		lab_assert_fired(pf, LAB_ASSERT_LEFT_AT_EXIT,
				 "%lu %s left when the PF went away", left, kind);
	debugfs_remove_recursive(pf->dir);
	lab_faults_clear(&pf->faults);
	lab_free_caps(pf->mdev);
	kvfree(pf->mdev);
	kfree(pf);
}

static int lab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct lab_pf *pf;
	int ret;

	pf = kzalloc(sizeof(*pf), GFP_KERNEL);
	if (!pf)
		return -ENOMEM;
	pf->mdev = kvzalloc(sizeof(*pf->mdev), GFP_KERNEL);
	if (!pf->mdev) {
		kfree(pf);
		return -ENOMEM;
	}
	pf->pdev = pdev;
	mutex_init(&pf->intf_lock);
	mutex_init(&pf->objects_lock);
	spin_lock_init(&pf->held_lock);
	INIT_LIST_HEAD(&pf->held);
	pf->timeout_ms = LAB_DEFAULT_TIMEOUT_MS;
	lab_faults_init(&pf->faults, true);
	xa_init_flags(&pf->pds, XA_FLAGS_ALLOC1);
	xa_init_flags(&pf->mkeys, XA_FLAGS_ALLOC1);
	pf->mdev->device = &pdev->dev;
	pf->mdev->pdev = pdev;
	pf->mdev->priv.numa_node = NUMA_NO_NODE;
	pci_set_drvdata(pdev, pf);
	ret = lab_alloc_caps(pf->mdev);
	if (!ret) {
		lab_log_init(pf);
		ret = pcim_enable_device(pdev);
	}
	if (!ret)
		ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret) {
		lab_free_caps(pf->mdev);
		kvfree(pf->mdev);
		kfree(pf);
		return ret;
	}
	pci_set_master(pdev);
	pf->domain = iommu_get_domain_for_dev(&pdev->dev);
	lab_debugfs_add_pf(pf);
	return 0;
}

static struct pci_driver lab_driver = {
	.name = "mlx5_lab",
	/* No id table: only driver_override binds a device to this driver. */
	.probe = lab_probe,
	.remove = lab_remove,
	.sriov_configure = lab_sriov_configure,
	.driver_managed_dma = true,
};

static int __init lab_init(void)
{
	int ret;

	lab_workqueue = alloc_workqueue("mlx5_lab", WQ_UNBOUND, 0);
	if (!lab_workqueue)
		return -ENOMEM;
	lab_debugfs_init();
	ret = lab_reset_init();
	if (ret)
		goto no_probe;
	ret = pci_register_driver(&lab_driver);
	if (ret)
		goto no_driver;
	return 0;

no_driver:
	lab_reset_exit();
no_probe:
	lab_debugfs_exit();
	destroy_workqueue(lab_workqueue);
	return ret;
}
module_init(lab_init);

static void __exit lab_exit(void)
{
	pci_unregister_driver(&lab_driver);
	lab_reset_exit();
	lab_debugfs_exit();
	destroy_workqueue(lab_workqueue);
	/* Completed commands are freed after a grace period. */
	rcu_barrier();
}
module_exit(lab_exit);

MODULE_DESCRIPTION("Stand-in for mlx5_core that simulates VF migration firmware");
MODULE_AUTHOR("mlxtrace project");
MODULE_LICENSE("GPL");
