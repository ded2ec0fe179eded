// SPDX-License-Identifier: GPL-2.0-only
/* The command interface: mailboxes in, mailboxes out. */
#include <linux/delay.h>
#include <linux/math64.h>

#include "mlx5_lab.h"

/* SUSPEND and RESUME number their directions in opposite order. */
#define LAB_SUSPEND_INITIATOR 0
#define LAB_SUSPEND_RESPONDER 1
#define LAB_RESUME_RESPONDER 0
#define LAB_RESUME_INITIATOR 1

/* Where vhca_id is in cmd_hca_cap. */
#define LAB_CAP_VHCA_ID 6
#define LAB_OTHER_FUNCTION BIT(7)

static int lab_status_to_errno(u8 status)
{
	switch (status) {
	case MLX5_CMD_STAT_OK:
		return 0;
	case MLX5_CMD_STAT_BAD_OP_ERR:
	case MLX5_CMD_STAT_BAD_PARAM_ERR:
	case MLX5_CMD_STAT_BAD_RES_ERR:
	case MLX5_CMD_STAT_BAD_RES_STATE_ERR:
	case MLX5_CMD_STAT_IX_ERR:
		return -EINVAL;
	case MLX5_CMD_STAT_RES_BUSY:
		return -EBUSY;
	case MLX5_CMD_STAT_LIM_ERR:
		return -ENOMEM;
	case MLX5_CMD_STAT_NO_RES_ERR:
		return -EAGAIN;
	default:
		return -EIO;
	}
}

/* How long the firmware takes: a fixed latency, and time that grows with size. */
ktime_t lab_duration(const struct lab_vf *vf, u64 bytes, u64 bytes_per_s)
{
	u64 ns = vf->knobs.latency_us * NSEC_PER_USEC;

	if (bytes_per_s)
		ns += mul_u64_u64_div_u64(bytes, NSEC_PER_SEC, bytes_per_s);
	return ns_to_ktime(ns);
}

/* An FLR that came in atomic context takes effect before anything else does. */
void lab_apply_reset(struct lab_vf *vf)
{
	if (!atomic_xchg(&vf->reset_pending, 0))
		return;
	vf->initiator_suspended = false;
	vf->responder_suspended = false;
	vf->tracked = false;
	vf->in_chunks = false;
	vf->chunks_left = false;
	vf->save_chain = (struct lab_chain){};
	vf->load_chain = (struct lab_chain){};
	lab_state_randomize(&vf->state);
}

static void lab_query_hca_cap(struct lab_pf *pf, const void *in, void *out,
			      int out_size)
{
	u16 function = lab_get16(in, 10);
	struct lab_vf *vf = NULL;

	if ((((const u8 *)in)[8] & LAB_OTHER_FUNCTION) && function &&
	    function <= pf->num_vfs)
		vf = &pf->vfs[function - 1];
	if (!vf || out_size < LAB_CAP_OFFSET + LAB_CAP2_MIGRATABLE / 8 + 4) {
		lab_set_status(out, MLX5_CMD_STAT_BAD_PARAM_ERR,
			       LAB_SYND_UNKNOWN_FUNCTION);
		return;
	}
	/* op_mod names the page of the capabilities, and below it current or maximum. */
	if (lab_get16(in, 6) >> 1 == MLX5_CAP_GENERAL_2) {
		lab_put_bit((u8 *)out + LAB_CAP_OFFSET, LAB_CAP2_MIGRATABLE,
			    vf->migratable);
		return;
	}
	*(__be16 *)((u8 *)out + LAB_CAP_OFFSET + LAB_CAP_VHCA_ID) =
		cpu_to_be16(lab_vhca_id(vf));
}

static void lab_wrong_order(struct lab_vf *vf, void *out, const char *command)
{
	lab_vf_assert_fired(vf, LAB_ASSERT_WRONG_ORDER,
			    "%s with initiator %s, responder %s", command,
			    vf->initiator_suspended ? "suspended" : "running",
			    vf->responder_suspended ? "suspended" : "running");
	lab_set_status(out, MLX5_CMD_STAT_BAD_RES_STATE_ERR, LAB_SYND_WRONG_ORDER);
}

static void lab_suspend(struct lab_vf *vf, u16 op_mod, void *out)
{
	bool responder = op_mod == LAB_SUSPEND_RESPONDER;

	lab_count(vf, LAB_COUNT_SUSPEND, 1);
	if (atomic_read(&vf->saves_running)) {
		lab_assert_fired(vf->pf, LAB_ASSERT_SUSPEND_DURING_SAVE,
				 "%s: SUSPEND while a SAVE runs", vf->name);
		lab_set_status(out, MLX5_CMD_STAT_BAD_RES_STATE_ERR,
			       LAB_SYND_SAVE_BUSY);
		return;
	}
	/* First it stops to send, then it stops to answer. */
	if (vf->responder_suspended || vf->initiator_suspended != responder) {
		lab_wrong_order(vf, out, responder ? "SUSPEND responder"
						   : "SUSPEND initiator");
		return;
	}
	if (responder)
		vf->responder_suspended = true;
	else
		vf->initiator_suspended = true;
}

static void lab_resume(struct lab_vf *vf, u16 op_mod, void *out)
{
	bool responder = op_mod == LAB_RESUME_RESPONDER;

	lab_count(vf, LAB_COUNT_RESUME, 1);
	if (!vf->initiator_suspended || vf->responder_suspended != responder) {
		lab_wrong_order(vf, out, responder ? "RESUME responder"
						   : "RESUME initiator");
		return;
	}
	if (responder && vf->load_chain.started && !vf->load_chain.complete) {
		lab_assert_fired(vf->pf, LAB_ASSERT_RESUME_INCOMPLETE,
				 "%s: RESUME without a final image loaded", vf->name);
		lab_set_status(out, MLX5_CMD_STAT_BAD_RES_STATE_ERR,
			       LAB_SYND_INCOMPLETE);
		return;
	}
	if (responder) {
		vf->responder_suspended = false;
		vf->load_chain = (struct lab_chain){};
	} else {
		vf->initiator_suspended = false;
	}
}

static void lab_query(struct lab_vf *vf, const void *in, void *out, int out_size)
{
	const void *caps = vf->pf->mdev->caps.hca[MLX5_CAP_GENERAL_2]->cur;
	bool incremental = ((const u8 *)in)[8] & BIT(7);
	u64 bytes, required;

	lab_count(vf, LAB_COUNT_QUERY, 1);
	vf->in_chunks = (((const u8 *)in)[8] & BIT(6)) &&
			lab_get_bit(caps, LAB_CAP2_IN_CHUNKS);
	if (incremental && !vf->tracked && !vf->chunks_left) {
		lab_set_status(out, MLX5_CMD_STAT_BAD_RES_STATE_ERR,
			       LAB_SYND_NOT_TRACKED);
		return;
	}
	bytes = lab_required_bytes(vf, incremental);
	required = vf->in_chunks ? lab_chunk_bytes(vf, bytes) : bytes;
	if (required > U32_MAX || out_size < 32) {
		lab_set_status(out, MLX5_CMD_STAT_LIM_ERR, LAB_SYND_NO_MEMORY);
		return;
	}
	lab_put32(out, 16, required);
	lab_put64(out, 24, bytes);
}

static enum lab_where lab_sync_where(u16 opcode, u16 op_mod)
{
	switch (opcode) {
	case MLX5_CMD_OP_SUSPEND_VHCA:
		return op_mod == LAB_SUSPEND_RESPONDER ? LAB_WHERE_SUSPEND_RESPONDER
						       : LAB_WHERE_SUSPEND_INITIATOR;
	case MLX5_CMD_OP_RESUME_VHCA:
		return op_mod == LAB_RESUME_RESPONDER ? LAB_WHERE_RESUME_RESPONDER
						      : LAB_WHERE_RESUME_INITIATOR;
	case MLX5_CMD_OP_QUERY_VHCA_MIGRATION_STATE:
		return LAB_WHERE_QUERY;
	default:
		return LAB_WHERE_LOAD;
	}
}

/* Let a fault take the command's place; returns whether it did. */
static bool lab_instead(struct lab_vf *vf, const struct lab_fault *fault, void *out,
			int *error)
{
	if (fault->disable_vf)
		queue_work(lab_workqueue, &vf->disable);
	if (fault->never) {
		msleep(vf->pf->timeout_ms);
		*error = -ETIMEDOUT;
		return true;
	}
	if (fault->delayed)
		fsleep(fault->delay_us);
	*error = fault->error;
	if (fault->status)
		lab_set_status(out, fault->status, fault->syndrome);
	return fault->error || fault->status;
}

/* Returns 0 when the command was delivered, whatever its status. */
static int lab_vhca_command(struct lab_pf *pf, u16 opcode, const void *in,
			    void *out, int out_size)
{
	struct lab_vf *vf = lab_vf_by_vhca_id(pf, lab_get16(in, 10));
	u16 op_mod = lab_get16(in, 6);
	struct lab_fault fault;
	int error = 0;

	if (!vf) {
		lab_set_status(out, MLX5_CMD_STAT_BAD_PARAM_ERR,
			       LAB_SYND_UNKNOWN_FUNCTION);
		return 0;
	}
	fault = lab_fault_for(&vf->faults, lab_sync_where(opcode, op_mod));
	if (lab_instead(vf, &fault, out, &error))
		return error;
	mutex_lock(&vf->lock);
	lab_apply_reset(vf);
	lab_state_advance(vf);
	if (opcode == MLX5_CMD_OP_SUSPEND_VHCA)
		lab_suspend(vf, op_mod, out);
	else if (opcode == MLX5_CMD_OP_RESUME_VHCA)
		lab_resume(vf, op_mod, out);
	else if (opcode == MLX5_CMD_OP_QUERY_VHCA_MIGRATION_STATE)
		lab_query(vf, in, out, out_size);
	else
		lab_load_execute(vf, in, out, &fault);
	if (opcode != MLX5_CMD_OP_LOAD_VHCA_STATE && vf->knobs.latency_us &&
	    !fault.delayed)
		fsleep(vf->knobs.latency_us);
	mutex_unlock(&vf->lock);
	return 0;
}

/*
 * Execute a command that is not SAVE, which has no synchronous form. Returns 0
 * when it was delivered: then @out has its status.
 */
int lab_dispatch(struct lab_pf *pf, const void *in, int in_size, void *out,
		 int out_size)
{
	u16 opcode = lab_get16(in, 0);

	memset(out, 0, out_size);
	switch (opcode) {
	case MLX5_CMD_OP_QUERY_HCA_CAP:
		lab_query_hca_cap(pf, in, out, out_size);
		break;
	case MLX5_CMD_OP_LOAD_VHCA_STATE:
		if (in_size < 32) {
			lab_set_status(out, MLX5_CMD_STAT_BAD_INP_LEN_ERR,
				       LAB_SYND_UNKNOWN_OPCODE);
			break;
		}
		fallthrough;
	case MLX5_CMD_OP_SUSPEND_VHCA:
	case MLX5_CMD_OP_RESUME_VHCA:
	case MLX5_CMD_OP_QUERY_VHCA_MIGRATION_STATE:
		return lab_vhca_command(pf, opcode, in, out, out_size);
	default:
		if (!lab_log_command(pf, in, in_size, out))
			lab_set_status(out, MLX5_CMD_STAT_BAD_OP_ERR,
				       LAB_SYND_UNKNOWN_OPCODE);
	}
	return 0;
}

static void lab_log_refusal(struct mlx5_core_dev *mdev, u16 opcode, u16 op_mod,
			    const void *out)
{
	dev_err(mdev->device,
		"command 0x%x/%u refused: status 0x%x, syndrome 0x%06x\n",
		opcode, op_mod, *(const u8 *)out, lab_get32(out, 4));
}

int mlx5_cmd_exec(struct mlx5_core_dev *mdev, void *in, int in_size, void *out,
		  int out_size)
{
	int error;
	u8 status;

	if (in_size < 16 || out_size < 16)
		return -EINVAL;
	error = lab_dispatch(lab_pf_of(mdev), in, in_size, out, out_size);
	if (error) {
		dev_err(mdev->device, "command 0x%x/%u not delivered: %d\n",
			lab_get16(in, 0), lab_get16(in, 6), error);
		return error;
	}
	status = *(u8 *)out;
	if (status)
		lab_log_refusal(mdev, lab_get16(in, 0), lab_get16(in, 6), out);
	return lab_status_to_errno(status);
}
EXPORT_SYMBOL(mlx5_cmd_exec);

/* Drivers from 6.9 on have the core log what an asynchronous command returned. */
void mlx5_cmd_out_err(struct mlx5_core_dev *mdev, u16 opcode, u16 op_mod, void *out)
{
	if (*(u8 *)out)
		lab_log_refusal(mdev, opcode, op_mod, out);
}
EXPORT_SYMBOL(mlx5_cmd_out_err);
