// SPDX-License-Identifier: GPL-2.0-only
/* SAVE_VHCA_STATE: checks, the image, the time it takes. */
#include <linux/bitmap.h>

#include "mlx5_lab.h"

#define LAB_SAVE_INCREMENTAL BIT(7)
#define LAB_SAVE_SET_TRACK BIT(6)

/*
 * What QUERY_VHCA_MIGRATION_STATE answers: 0 for a VF that runs and changed
 * nothing; a suspended one always has its final image to give.
 */
u64 lab_required_bytes(struct lab_vf *vf, bool incremental)
{
	unsigned long blocks = vf->state.nblocks;

	if (incremental) {
		blocks = bitmap_weight(vf->state.dirty, vf->state.nblocks);
		if (!blocks && !vf->responder_suspended)
			return 0;
	}
	return lab_image_bytes(blocks);
}

/* The room that one image of a VF with @bytes to give asks for, in chunk mode. */
u64 lab_chunk_bytes(const struct lab_vf *vf, u64 bytes)
{
	return min(bytes, max(vf->knobs.chunk_bytes, lab_image_bytes(1)));
}

static int lab_refuse(u32 *syndrome, u32 why, int status)
{
	*syndrome = why;
	return status;
}

static int lab_check_flags(struct lab_vf *vf, bool incremental, bool track,
			   u32 *syndrome)
{
	if (track && vf->responder_suspended) {
		lab_vf_assert_fired(vf, LAB_ASSERT_TRACK_SUSPENDED,
				    "SAVE with set_track while suspended");
		return lab_refuse(syndrome, LAB_SYND_TRACK_SUSPENDED,
				  MLX5_CMD_STAT_BAD_RES_STATE_ERR);
	}
	if (incremental && !vf->tracked && !vf->chunks_left) {
		lab_vf_assert_fired(vf, LAB_ASSERT_SAVE_UNTRACKED,
				    "incremental SAVE without tracking");
		return lab_refuse(syndrome, LAB_SYND_NOT_TRACKED,
				  MLX5_CMD_STAT_BAD_RES_STATE_ERR);
	}
	if (!track && !vf->responder_suspended) {
		lab_vf_assert_fired(vf, LAB_ASSERT_WRONG_ORDER,
				    "final SAVE of a VF that runs");
		return lab_refuse(syndrome, LAB_SYND_NOT_SUSPENDED,
				  MLX5_CMD_STAT_BAD_RES_STATE_ERR);
	}
	return MLX5_CMD_STAT_OK;
}

static int lab_write_checked(struct lab_vf *vf, struct lab_mkey *mkey, u64 size,
			     struct lab_image *image, u64 *length, u32 *syndrome)
{
	u64 needed = lab_required_bytes(vf, !image->full);

	/* A tracked VF that did not change since QUERY has an empty image. */
	needed = max(needed, lab_image_bytes(0)) + vf->knobs.growth_bytes;
	image->room = size;
	if (image->final && vf->in_chunks) {
		needed = min(needed, lab_image_bytes(1));
		/* A driver may offer more room than QUERY asked for. */
		image->room = min(size, lab_chunk_bytes(vf, U64_MAX));
	}
	if (size > mkey->length) {
		lab_assert_fired(vf->pf, LAB_ASSERT_BEYOND_MKEY,
				 "%s: SAVE of %llu bytes into an mkey of %llu",
				 vf->name, size, mkey->length);
		return lab_refuse(syndrome, LAB_SYND_BEYOND_MKEY,
				  MLX5_CMD_STAT_BAD_PARAM_ERR);
	}
	if (needed > size)
		return lab_refuse(syndrome, LAB_SYND_STATE_GREW,
				  MLX5_CMD_STAT_BAD_RES_STATE_ERR);
	return lab_image_write(vf, mkey, image, length, syndrome);
}

/* A cancelled pre-copy: the driver asks to stop tracking, without data. */
static bool lab_is_cleanup(const struct lab_vf *vf, const void *in)
{
	u8 flags = ((const u8 *)in)[8];

	return !(flags & (LAB_SAVE_INCREMENTAL | LAB_SAVE_SET_TRACK)) &&
	       !vf->responder_suspended && (vf->tracked || !lab_get32(in, 24));
}

/* Tell what a SAVE is for, from its flags and the VF's state. */
enum lab_where lab_save_kind(struct lab_vf *vf, const void *in)
{
	u8 flags = ((const u8 *)in)[8];

	if (flags & LAB_SAVE_SET_TRACK)
		return flags & LAB_SAVE_INCREMENTAL ? LAB_WHERE_SAVE_MIDDLE
						    : LAB_WHERE_SAVE_INITIAL;
	return lab_is_cleanup(vf, in) ? LAB_WHERE_SAVE_CLEANUP : LAB_WHERE_SAVE_FINAL;
}

static enum lab_counter lab_kind_counter(const struct lab_vf *vf,
					 bool incremental, bool track)
{
	if (track)
		return incremental ? LAB_COUNT_SAVE_MIDDLE : LAB_COUNT_SAVE_INITIAL;
	return vf->chunks_left ? LAB_COUNT_SAVE_CHUNK : LAB_COUNT_SAVE_FINAL;
}

/* What is left of a final image that goes out in chunks. */
static void lab_note_chunks(struct lab_async *async, bool final)
{
	struct lab_vf *vf = async->vf;
	u64 left = 0;

	vf->chunks_left = final && vf->in_chunks &&
			  !bitmap_empty(vf->state.dirty, vf->state.nblocks);
	if (vf->chunks_left)
		left = lab_chunk_bytes(vf, lab_required_bytes(vf, true));
	lab_put32(async->out, 12, left);
}

static int lab_save_locked(struct lab_async *async, u64 *length, u32 *syndrome)
{
	struct lab_vf *vf = async->vf;
	bool incremental = async->in[8] & LAB_SAVE_INCREMENTAL;
	bool track = async->in[8] & LAB_SAVE_SET_TRACK;
	struct lab_image image = {
		.full = !incremental,
		.final = !track,
		.damage = async->fault.damage,
	};
	struct lab_mkey *mkey;
	int status;

	if (!async->running_save)
		return lab_refuse(syndrome, LAB_SYND_SAVE_BUSY,
				  MLX5_CMD_STAT_RES_BUSY);
	if (async->fault.status)
		return lab_refuse(syndrome, async->fault.syndrome, async->fault.status);
	if (lab_is_cleanup(vf, async->in)) {
		vf->tracked = false;
		async->kind = LAB_COUNT_SAVE_CLEANUP;
		return MLX5_CMD_STAT_OK;
	}
	status = lab_check_flags(vf, incremental, track, syndrome);
	if (status)
		return status;
	mkey = lab_mkey_get(vf->pf, lab_get32(async->in, 24));
	if (!mkey)
		return lab_refuse(syndrome, LAB_SYND_BAD_MKEY,
				  MLX5_CMD_STAT_BAD_RES_ERR);
	async->mkey = mkey;
	status = lab_write_checked(vf, mkey, lab_get32(async->in, 28), &image, length,
				   syndrome);
	if (status)
		return status;
	vf->tracked = track;
	lab_note_chunks(async, !track);
	async->kind = lab_kind_counter(vf, incremental, track);
	return MLX5_CMD_STAT_OK;
}

/* Note that a SAVE is under way, from the moment the driver asked for it. */
void lab_save_claim(struct lab_async *async)
{
	struct lab_vf *vf = async->vf;

	async->running_save = !atomic_cmpxchg(&vf->saves_running, 0, 1);
	if (!async->running_save)
		lab_assert_fired(vf->pf, LAB_ASSERT_TWO_SAVES,
				 "%s: SAVE while another one runs", vf->name);
}

/* Do the SAVE, in process context; returns when the firmware would be done. */
ktime_t lab_save_execute(struct lab_async *async)
{
	struct lab_vf *vf = async->vf;
	u32 syndrome = LAB_SYND_NONE;
	u64 length = 0;
	ktime_t due;
	int status;

	mutex_lock(&vf->lock);
	lab_apply_reset(vf);
	/* The image is what QUERY announced: what changed since is the next one's. */
	lab_count(vf, LAB_COUNT_SAVE, 1);
	status = lab_save_locked(async, &length, &syndrome);
	if (status)
		lab_count(vf, LAB_COUNT_SAVE_FAILED, 1);
	async->saved = !status;
	lab_set_status(async->out, status, syndrome);
	lab_put32(async->out, 8, length);
	due = ktime_add(async->issued,
			lab_duration(vf, length, vf->knobs.save_bytes_per_s));
	mutex_unlock(&vf->lock);
	async->length = length;
	return due;
}

/* What became of a SAVE that was done, as the driver is told. */
static void lab_count_saved(struct lab_async *async)
{
	struct lab_vf *vf = async->vf;

	if (async->out[0]) {
		lab_count(vf, LAB_COUNT_SAVE_FAILED, 1);
		return;
	}
	lab_count(vf, async->kind, 1);
	lab_count(vf, LAB_COUNT_SAVE_BYTES, async->length);
}

/* The firmware is done with the memory: it must still be there. In hard IRQ. */
void lab_save_finish(struct lab_async *async)
{
	struct lab_vf *vf = async->vf;

	if (atomic_read(&vf->reset_pending))
		lab_set_status(async->out, MLX5_CMD_STAT_BAD_SYS_STATE_ERR,
			       LAB_SYND_RESET);
	if (async->mkey && !lab_mkey_mapped(vf->pf, async->mkey, async->length)) {
		lab_assert_fired(vf->pf, LAB_ASSERT_UNMAPPED,
				 "%s: memory unmapped under a running SAVE", vf->name);
		lab_set_status(async->out, MLX5_CMD_STAT_BAD_RES_ERR,
			       LAB_SYND_UNMAPPED);
	}
	if (async->saved)
		lab_count_saved(async);
	/* Not ours any more before the driver hears of it and destroys it. */
	if (async->mkey)
		lab_mkey_put(async->mkey);
	if (async->running_save)
		atomic_set(&vf->saves_running, 0);
}
