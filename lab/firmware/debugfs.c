// SPDX-License-Identifier: GPL-2.0-only
/* /sys/kernel/debug/mlx5_lab: knobs and figures, one value a file. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "mlx5_lab.h"

static struct dentry *lab_root;
static atomic64_t lab_assertions[LAB_ASSERT_NR];

static const char * const lab_assertion_names[LAB_ASSERT_NR] = {
	[LAB_ASSERT_TWO_SAVES] = "two_saves",
	[LAB_ASSERT_SUSPEND_DURING_SAVE] = "suspend_during_save",
	[LAB_ASSERT_SAVE_UNTRACKED] = "save_untracked",
	[LAB_ASSERT_TRACK_SUSPENDED] = "track_suspended",
	[LAB_ASSERT_BEYOND_MKEY] = "beyond_mkey",
	[LAB_ASSERT_MKEY_DESTROYED_BUSY] = "mkey_destroyed_busy",
	[LAB_ASSERT_PD_BUSY] = "pd_busy",
	[LAB_ASSERT_UNMAPPED] = "unmapped",
	[LAB_ASSERT_LOAD_RUNNING] = "load_running",
	[LAB_ASSERT_RESUME_INCOMPLETE] = "resume_incomplete",
	[LAB_ASSERT_WRONG_ORDER] = "wrong_order",
	[LAB_ASSERT_LEFT_AT_EXIT] = "left_at_exit",
};

static const char * const lab_counter_names[LAB_COUNT_NR] = {
	[LAB_COUNT_QUERY] = "query",
	[LAB_COUNT_SUSPEND] = "suspend",
	[LAB_COUNT_RESUME] = "resume",
	[LAB_COUNT_SAVE] = "save",
	[LAB_COUNT_SAVE_INITIAL] = "save_initial",
	[LAB_COUNT_SAVE_MIDDLE] = "save_middle",
	[LAB_COUNT_SAVE_CHUNK] = "save_chunk",
	[LAB_COUNT_SAVE_FINAL] = "save_final",
	[LAB_COUNT_SAVE_CLEANUP] = "save_cleanup",
	[LAB_COUNT_SAVE_FAILED] = "save_failed",
	[LAB_COUNT_SAVE_BYTES] = "save_bytes",
	[LAB_COUNT_LOAD] = "load",
	[LAB_COUNT_LOAD_FAILED] = "load_failed",
	[LAB_COUNT_LOAD_BYTES] = "load_bytes",
	[LAB_COUNT_RESET] = "reset",
};

/* Count a misuse and say what it was. Any context. */
void lab_assert_fired(struct lab_pf *pf, enum lab_assertion id, const char *fmt, ...)
{
	struct va_format text;
	va_list args;

	atomic64_inc(&lab_assertions[id]);
	va_start(args, fmt);
	text.fmt = fmt;
	text.va = &args;
	dev_err(&pf->pdev->dev, "assertion %s: %pV\n", lab_assertion_names[id], &text);
	va_end(args);
}

static int lab_assertions_show(struct seq_file *file, void *unused)
{
	int i;

	for (i = 0; i < LAB_ASSERT_NR; i++)
		seq_printf(file, "%s %lld\n", lab_assertion_names[i],
			   atomic64_read(&lab_assertions[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lab_assertions);

static int lab_counters_show(struct seq_file *file, void *unused)
{
	struct lab_vf *vf = file->private;
	int i;

	for (i = 0; i < LAB_COUNT_NR; i++)
		seq_printf(file, "%s %lld\n", lab_counter_names[i],
			   atomic64_read(&vf->counters[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lab_counters);

static int lab_state_hash_show(struct seq_file *file, void *unused)
{
	struct lab_vf *vf = file->private;
	u64 hash;

	mutex_lock(&vf->lock);
	lab_apply_reset(vf);
	lab_state_advance(vf);
	hash = lab_state_hash(&vf->state);
	mutex_unlock(&vf->lock);
	seq_printf(file, "%016llx\n", hash);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lab_state_hash);

static int lab_status_show(struct seq_file *file, void *unused)
{
	struct lab_vf *vf = file->private;

	mutex_lock(&vf->lock);
	lab_apply_reset(vf);
	lab_state_advance(vf);
	seq_printf(file, "initiator_suspended %d\n", vf->initiator_suspended);
	seq_printf(file, "responder_suspended %d\n", vf->responder_suspended);
	seq_printf(file, "tracked %d\n", vf->tracked);
	seq_printf(file, "dirty_bytes %lu\n",
		   bitmap_weight(vf->state.dirty, vf->state.nblocks) * LAB_BLOCK_SIZE);
	mutex_unlock(&vf->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lab_status);

static int lab_size_get(void *data, u64 *value)
{
	*value = ((struct lab_vf *)data)->state.size_bytes;
	return 0;
}

static int lab_size_set(void *data, u64 value)
{
	struct lab_vf *vf = data;
	int ret = -EBUSY;

	mutex_lock(&vf->lock);
	lab_apply_reset(vf);
	if (!vf->tracked && !vf->initiator_suspended && !atomic_read(&vf->saves_running))
		ret = lab_state_resize(&vf->state, value);
	mutex_unlock(&vf->lock);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(lab_size_fops, lab_size_get, lab_size_set, "%llu\n");

/* A knob takes effect from now on: the time so far counts with the old value. */
#define LAB_KNOB(member)						\
static int lab_##member##_get(void *data, u64 *value)			\
{									\
	*value = ((struct lab_vf *)data)->knobs.member;			\
	return 0;							\
}									\
									\
static int lab_##member##_set(void *data, u64 value)			\
{									\
	struct lab_vf *vf = data;					\
									\
	mutex_lock(&vf->lock);						\
	lab_apply_reset(vf);						\
	lab_state_advance(vf);						\
	vf->knobs.member = value;					\
	mutex_unlock(&vf->lock);					\
	return 0;							\
}									\
DEFINE_DEBUGFS_ATTRIBUTE(lab_##member##_fops, lab_##member##_get,	\
			 lab_##member##_set, "%llu\n")

LAB_KNOB(dirty_bytes_per_s);
LAB_KNOB(working_set_bytes);
LAB_KNOB(save_bytes_per_s);
LAB_KNOB(load_bytes_per_s);
LAB_KNOB(latency_us);
LAB_KNOB(growth_bytes);
LAB_KNOB(chunk_bytes);

static int lab_migratable_get(void *data, u64 *value)
{
	*value = ((struct lab_vf *)data)->migratable;
	return 0;
}

static int lab_migratable_set(void *data, u64 value)
{
	((struct lab_vf *)data)->migratable = value;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(lab_migratable_fops, lab_migratable_get, lab_migratable_set,
			 "%llu\n");

static int lab_dma_get(void *data, u64 *value)
{
	*value = ((struct lab_vf *)data)->dma_address;
	return 0;
}

static int lab_dma_set(void *data, u64 value)
{
	struct lab_vf *vf = data;

	vf->dma_address = value;
	return lab_log_write(vf, value);
}
DEFINE_DEBUGFS_ATTRIBUTE(lab_dma_fops, lab_dma_get, lab_dma_set, "%llu\n");

static int lab_present_get(void *data, u64 *value)
{
	*value = !((struct lab_vf *)data)->absent;
	return 0;
}

/* A VF that comes back is a new one. */
static int lab_present_set(void *data, u64 value)
{
	struct lab_vf *vf = data;

	if (vf->absent == !value)
		return 0;
	vf->absent = !value;
	if (value)
		atomic_set(&vf->reset_pending, 1);
	blocking_notifier_call_chain(&vf->notifiers, value ?
				     MLX5_PF_NOTIFY_ENABLE_VF :
				     MLX5_PF_NOTIFY_DISABLE_VF, NULL);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(lab_present_fops, lab_present_get, lab_present_set, "%llu\n");

/* The driver reads capabilities when it takes a VF: they count from then on. */
#define LAB_CAP(name, type, bit)					\
static int lab_cap_##name##_get(void *data, u64 *value)			\
{									\
	struct lab_pf *pf = data;					\
									\
	*value = lab_get_bit(pf->mdev->caps.hca[type]->cur, bit);	\
	return 0;							\
}									\
									\
static int lab_cap_##name##_set(void *data, u64 value)			\
{									\
	struct lab_pf *pf = data;					\
									\
	lab_put_bit(pf->mdev->caps.hca[type]->cur, bit, value);		\
	return 0;							\
}									\
DEFINE_DEBUGFS_ATTRIBUTE(lab_cap_##name##_fops, lab_cap_##name##_get,	\
			 lab_cap_##name##_set, "%llu\n")

LAB_CAP(migration, MLX5_CAP_GENERAL, LAB_CAP_MIGRATION);
LAB_CAP(page_tracking, MLX5_CAP_GENERAL, LAB_CAP_ADV_VIRTUALIZATION);
LAB_CAP(multi_load, MLX5_CAP_GENERAL_2, LAB_CAP2_MULTI_LOAD);
LAB_CAP(tracking_state, MLX5_CAP_GENERAL_2, LAB_CAP2_TRACKING_STATE);
LAB_CAP(migration_in_chunks, MLX5_CAP_GENERAL_2, LAB_CAP2_IN_CHUNKS);

static int lab_objects_show(struct seq_file *file, void *unused)
{
	struct lab_pf *pf = file->private;
	unsigned long index, pds = 0, mkeys = 0;
	void *entry;

	mutex_lock(&pf->objects_lock);
	xa_for_each(&pf->pds, index, entry)
		pds++;
	xa_for_each(&pf->mkeys, index, entry)
		mkeys++;
	mutex_unlock(&pf->objects_lock);
	seq_printf(file, "pds %lu\nmkeys %lu\nasync %d\n", pds, mkeys,
		   atomic_read(&pf->async_running));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lab_objects);

static void lab_add_knob(struct lab_vf *vf, const char *name,
			 const struct file_operations *fops)
{
	debugfs_create_file_unsafe(name, 0600, vf->dir, vf, fops);
}

static void lab_add_cap(struct lab_pf *pf, const char *name,
			const struct file_operations *fops)
{
	debugfs_create_file_unsafe(name, 0600, pf->dir, pf, fops);
}

void lab_debugfs_add_pf(struct lab_pf *pf)
{
	pf->dir = debugfs_create_dir(pci_name(pf->pdev), lab_root);
	lab_add_cap(pf, "migration", &lab_cap_migration_fops);
	lab_add_cap(pf, "page_tracking", &lab_cap_page_tracking_fops);
	lab_add_cap(pf, "multi_load", &lab_cap_multi_load_fops);
	lab_add_cap(pf, "tracking_state", &lab_cap_tracking_state_fops);
	lab_add_cap(pf, "migration_in_chunks", &lab_cap_migration_in_chunks_fops);
	debugfs_create_u64("timeout_ms", 0600, pf->dir, &pf->timeout_ms);
	debugfs_create_file("objects", 0400, pf->dir, pf, &lab_objects_fops);
	debugfs_create_file("faults", 0600, pf->dir, &pf->faults, &lab_faults_fops);
}

void lab_debugfs_add_vf(struct lab_vf *vf)
{
	vf->dir = debugfs_create_dir(vf->name, lab_root);
	debugfs_create_file("state_hash", 0400, vf->dir, vf, &lab_state_hash_fops);
	debugfs_create_file("status", 0400, vf->dir, vf, &lab_status_fops);
	debugfs_create_file("counters", 0400, vf->dir, vf, &lab_counters_fops);
	lab_add_knob(vf, "size_bytes", &lab_size_fops);
	lab_add_knob(vf, "dirty_bytes_per_s", &lab_dirty_bytes_per_s_fops);
	lab_add_knob(vf, "working_set_bytes", &lab_working_set_bytes_fops);
	lab_add_knob(vf, "save_bytes_per_s", &lab_save_bytes_per_s_fops);
	lab_add_knob(vf, "load_bytes_per_s", &lab_load_bytes_per_s_fops);
	lab_add_knob(vf, "latency_us", &lab_latency_us_fops);
	lab_add_knob(vf, "growth_bytes", &lab_growth_bytes_fops);
	lab_add_knob(vf, "chunk_bytes", &lab_chunk_bytes_fops);
	lab_add_knob(vf, "migratable", &lab_migratable_fops);
	lab_add_knob(vf, "present", &lab_present_fops);
	lab_add_knob(vf, "dma", &lab_dma_fops);
	debugfs_create_file("faults", 0600, vf->dir, &vf->faults, &lab_faults_fops);
}

void lab_debugfs_init(void)
{
	lab_root = debugfs_create_dir("mlx5_lab", NULL);
	debugfs_create_file("assertions", 0400, lab_root, NULL, &lab_assertions_fops);
}

void lab_debugfs_exit(void)
{
	debugfs_remove_recursive(lab_root);
}
