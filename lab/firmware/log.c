// SPDX-License-Identifier: GPL-2.0-only
/*
 * The log of the pages that a VF writes to. Its driver gets it in messages,
 * each of which says whether there are more: see queue.c.
 *
 * The VF's writes are made up: the debugfs file "dma" tells of one.
 */
#include <linux/slab.h>

#include "mlx5_lab.h"

/* Largest message, as a power of two; where the log's state is in its number. */
#define LAB_LOG_MESSAGE 12
#define LAB_LOG_STATE 28
#define LAB_LOG_MAX_RANGES 16
#define LAB_LOG_NO_ROOM_US 200

struct lab_range {
	u64 start;
	u64 length;
};

struct lab_log {
	struct lab_pf *pf;
	u16 vhca_id;
	u32 qpn;
	u8 page_shift;
	u32 message_bytes;
	/* Pages that were written to since they were reported. */
	struct xarray pages;
	struct work_struct report;
	u64 first;
	u64 last;
	bool dying;
	u8 nranges;
	struct lab_range ranges[] __counted_by(nranges);
};

/* Move what was written to, within the range asked for, into one message. */
static u32 lab_log_take(struct lab_log *log, __be64 *entries)
{
	u32 room = log->message_bytes / sizeof(*entries), n = 0;
	unsigned long page;
	void *entry;

	xa_for_each_range(&log->pages, page, entry, log->first >> log->page_shift,
			  log->last >> log->page_shift) {
		if (n == room)
			break;
		entries[n++] = cpu_to_be64((u64)page << log->page_shift);
		xa_erase(&log->pages, page);
	}
	return n * sizeof(*entries);
}

static void lab_log_report(struct work_struct *work)
{
	struct lab_log *log = container_of(work, struct lab_log, report);
	__be64 *entries = kvmalloc(log->message_bytes, GFP_KERNEL);
	u8 state = MLX5_PAGE_TRACK_STATE_REPORTING;
	u32 bytes = 0;
	int ret = -EAGAIN;

	while (state == MLX5_PAGE_TRACK_STATE_REPORTING && !READ_ONCE(log->dying)) {
		mutex_lock(&log->pf->log_lock);
		if (!entries)
			state = MLX5_PAGE_TRACK_STATE_ERROR;
		else if (ret != -EAGAIN || !bytes)
			bytes = lab_log_take(log, entries);
		if (entries && !bytes)
			state = MLX5_PAGE_TRACK_STATE_TRACKING;
		ret = lab_qp_send(log->pf, log->qpn, entries, bytes, state << LAB_LOG_STATE);
		mutex_unlock(&log->pf->log_lock);
		if (ret == -EAGAIN) {
			state = MLX5_PAGE_TRACK_STATE_REPORTING;
			usleep_range(LAB_LOG_NO_ROOM_US, 2 * LAB_LOG_NO_ROOM_US);
		} else if (ret) {
			break;
		}
	}
	kvfree(entries);
}

static int lab_log_create(struct lab_pf *pf, const void *in, int in_size, void *out)
{
	const void *context = MLX5_ADDR_OF(create_page_track_obj_in, in, obj_context);
	const void *range = MLX5_ADDR_OF(page_track, context, track_range);
	u8 nranges = MLX5_GET(page_track, context, num_ranges), i;
	struct lab_log *log;
	u32 number;
	int ret;

	if (in_size < MLX5_ST_SZ_BYTES(create_page_track_obj_in) +
		      nranges * MLX5_ST_SZ_BYTES(page_track_range))
		return -EINVAL;
	log = kzalloc(struct_size(log, ranges, nranges), GFP_KERNEL);
	if (!log)
		return -ENOMEM;
	log->nranges = nranges;
	log->pf = pf;
	log->vhca_id = MLX5_GET(page_track, context, vhca_id);
	log->qpn = MLX5_GET(page_track, context, reporting_qpn);
	log->page_shift = MLX5_GET(page_track, context, log_page_size);
	log->message_bytes = 1 << MLX5_GET(page_track, context, log_msg_size);
	for (i = 0; i < nranges; i++, range += MLX5_ST_SZ_BYTES(page_track_range)) {
		log->ranges[i].start = MLX5_GET64(page_track_range, range, start_address);
		log->ranges[i].length = MLX5_GET64(page_track_range, range, length);
	}
	xa_init(&log->pages);
	INIT_WORK(&log->report, lab_log_report);
	ret = xa_alloc(&pf->logs, &number, log, XA_LIMIT(1, 0xffffff), GFP_KERNEL);
	if (ret) {
		kfree(log);
		return ret;
	}
	MLX5_SET(general_obj_out_cmd_hdr, out, obj_id, number);
	return 0;
}

static int lab_log_modify(struct lab_pf *pf, const void *in)
{
	const void *context = MLX5_ADDR_OF(modify_page_track_obj_in, in, obj_context);
	struct lab_log *log = xa_load(&pf->logs, MLX5_GET(general_obj_in_cmd_hdr, in, obj_id));

	if (!log || MLX5_GET(page_track, context, state) != MLX5_PAGE_TRACK_STATE_REPORTING)
		return -EINVAL;
	log->first = MLX5_GET64(page_track, context, range_start_address);
	log->last = log->first + MLX5_GET64(page_track, context, length) - 1;
	queue_work(lab_workqueue, &log->report);
	return 0;
}

static void lab_log_free(struct lab_log *log)
{
	WRITE_ONCE(log->dying, true);
	cancel_work_sync(&log->report);
	xa_destroy(&log->pages);
	kfree(log);
}

/* As lab_dispatch(), for commands that a log needs. Returns whether it is one. */
bool lab_log_command(struct lab_pf *pf, const void *in, int in_size, void *out)
{
	u16 opcode = lab_get16(in, 0);
	struct lab_log *log = NULL;
	int ret;

	mutex_lock(&pf->log_lock);
	if (opcode == MLX5_CMD_OP_CREATE_GENERAL_OBJECT) {
		ret = lab_log_create(pf, in, in_size, out);
	} else if (opcode == MLX5_CMD_OP_MODIFY_GENERAL_OBJECT) {
		ret = lab_log_modify(pf, in);
	} else if (opcode == MLX5_CMD_OP_DESTROY_GENERAL_OBJECT) {
		log = xa_erase(&pf->logs, MLX5_GET(general_obj_in_cmd_hdr, in, obj_id));
		ret = log ? 0 : -EINVAL;
	} else {
		ret = lab_qp_execute(pf, opcode, in, in_size, out);
	}
	mutex_unlock(&pf->log_lock);
	/* Its report takes the lock. */
	if (log)
		lab_log_free(log);
	if (ret == -EOPNOTSUPP)
		return false;
	if (ret)
		lab_set_status(out, ret == -ENOMEM ? MLX5_CMD_STAT_LIM_ERR
						   : MLX5_CMD_STAT_BAD_PARAM_ERR,
			       LAB_SYND_BAD_LOG);
	return true;
}

/* The VF writes to @address: its logs have the page, if it is in their ranges. */
int lab_log_write(struct lab_vf *vf, u64 address)
{
	struct lab_pf *pf = vf->pf;
	struct lab_log *log;
	unsigned long index;
	int i, ret = 0;

	mutex_lock(&pf->log_lock);
	xa_for_each(&pf->logs, index, log) {
		if (log->vhca_id != lab_vhca_id(vf))
			continue;
		for (i = 0; i < log->nranges && !ret; i++)
			if (address >= log->ranges[i].start &&
			    address - log->ranges[i].start < log->ranges[i].length)
				ret = xa_err(xa_store(&log->pages, address >> log->page_shift,
						      xa_mk_value(1), GFP_KERNEL));
	}
	mutex_unlock(&pf->log_lock);
	return ret;
}

void lab_log_init(struct lab_pf *pf)
{
	void *caps = pf->mdev->caps.hca[MLX5_CAP_ADV_VIRTUALIZATION]->cur;

	mutex_init(&pf->log_lock);
	lab_queues_init(pf);
	xa_init_flags(&pf->logs, XA_FLAGS_ALLOC1);
	MLX5_SET(adv_virtualization_cap, caps, pg_track_max_num_range, LAB_LOG_MAX_RANGES);
	MLX5_SET(adv_virtualization_cap, caps, pg_track_log_min_addr_space, PAGE_SHIFT);
	MLX5_SET(adv_virtualization_cap, caps, pg_track_log_max_addr_space, 63);
	MLX5_SET(adv_virtualization_cap, caps, pg_track_log_max_msg_size, LAB_LOG_MESSAGE);
	MLX5_SET(adv_virtualization_cap, caps, pg_track_log_min_page_size, PAGE_SHIFT);
	MLX5_SET(adv_virtualization_cap, caps, pg_track_log_max_page_size, 30);
}

/* Return how many logs and queues the driver left, and free them. */
unsigned long lab_logs_left(struct lab_pf *pf)
{
	unsigned long index, left = 0;
	struct lab_log *log;

	xa_for_each(&pf->logs, index, log) {
		left++;
		lab_log_free(log);
	}
	xa_destroy(&pf->logs);
	return left + lab_queues_left(pf);
}
