// SPDX-License-Identifier: GPL-2.0-only
/* LOAD_VHCA_STATE: one image of a stream into a suspended VF. */
#include <linux/delay.h>

#include "mlx5_lab.h"

/* Called with the VF locked; sleeps for as long as the firmware would take. */
void lab_load_execute(struct lab_vf *vf, const void *in, void *out,
		      const struct lab_fault *fault)
{
	u32 size = lab_get32(in, 28);
	u32 syndrome = LAB_SYND_NONE;
	ktime_t due = ktime_add(ktime_get(),
				lab_duration(vf, size, vf->knobs.load_bytes_per_s));
	struct lab_mkey *mkey;
	s64 left_us;
	int status;

	lab_count(vf, LAB_COUNT_LOAD, 1);
	if (!vf->responder_suspended || !vf->initiator_suspended) {
		lab_vf_assert_fired(vf, LAB_ASSERT_LOAD_RUNNING,
				    "LOAD into a VF that runs");
		status = MLX5_CMD_STAT_BAD_RES_STATE_ERR;
		syndrome = LAB_SYND_NOT_SUSPENDED;
		goto out;
	}
	mkey = lab_mkey_get(vf->pf, lab_get32(in, 24));
	if (!mkey) {
		status = MLX5_CMD_STAT_BAD_RES_ERR;
		syndrome = LAB_SYND_BAD_MKEY;
		goto out;
	}
	if (size > mkey->length) {
		lab_assert_fired(vf->pf, LAB_ASSERT_BEYOND_MKEY,
				 "%s: LOAD of %u bytes from an mkey of %llu",
				 vf->name, size, mkey->length);
		status = MLX5_CMD_STAT_BAD_PARAM_ERR;
		syndrome = LAB_SYND_BEYOND_MKEY;
	} else {
		if (fault->damage)
			lab_image_damage(vf, mkey, size);
		status = lab_image_load(vf, mkey, size, &syndrome);
	}
	lab_mkey_put(mkey);
	left_us = ktime_us_delta(due, ktime_get());
	if (left_us > 0 && !fault->delayed)
		fsleep(left_us);
out:
	lab_count(vf, status ? LAB_COUNT_LOAD_FAILED : LAB_COUNT_LOAD_BYTES,
		  status ? 1 : size);
	lab_set_status(out, status, syndrome);
}
