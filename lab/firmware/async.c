// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asynchronous commands. As with the hardware, the caller gets no answer but
 * that the command is on its way, and the callback comes in hard interrupt
 * context: here from a timer that expires when the firmware would be done.
 */
#include <linux/slab.h>

#include "mlx5_lab.h"

void mlx5_cmd_init_async_ctx(struct mlx5_core_dev *mdev, struct mlx5_async_ctx *ctx)
{
	ctx->dev = mdev;
	/* The context's own count, dropped by cleanup. */
	atomic_set(&ctx->num_inflight, 1);
	init_completion(&ctx->inflight_done);
}
EXPORT_SYMBOL(mlx5_cmd_init_async_ctx);

/* Returns only after every callback of this context has run. */
void mlx5_cmd_cleanup_async_ctx(struct mlx5_async_ctx *ctx)
{
	if (!atomic_dec_and_test(&ctx->num_inflight))
		wait_for_completion(&ctx->inflight_done);
}
EXPORT_SYMBOL(mlx5_cmd_cleanup_async_ctx);

static enum hrtimer_restart lab_async_done(struct hrtimer *timer)
{
	struct lab_async *async = container_of(timer, struct lab_async, done);
	struct lab_pf *pf = lab_pf_of(async->ctx->dev);
	struct mlx5_async_ctx *ctx = async->ctx;

	if (async->vf)
		lab_save_finish(async);
	memcpy(async->work->out, async->out, async->out_size);
	/* The driver may free the work in its callback: not touched after this. */
	async->work->user_callback(async->out[0] ? -EREMOTEIO : 0, async->work);
	if (atomic_dec_and_test(&ctx->num_inflight))
		complete(&ctx->inflight_done);
	atomic_dec(&pf->async_running);
	kfree_rcu(async, rcu);
	return HRTIMER_NORESTART;
}

static void lab_async_start(struct work_struct *start)
{
	struct lab_async *async = container_of(start, struct lab_async, start);

	if (async->vf) {
		lab_save_execute(async);
		return;
	}
	lab_dispatch(lab_pf_of(async->ctx->dev), async->in, sizeof(async->in),
		     async->out, async->out_size);
	hrtimer_start(&async->done, ktime_get(), HRTIMER_MODE_ABS_HARD);
}

int mlx5_cmd_exec_cb(struct mlx5_async_ctx *ctx, void *in, int in_size, void *out,
		     int out_size, mlx5_async_cbk_t callback,
		     struct mlx5_async_work *work)
{
	struct lab_pf *pf = lab_pf_of(ctx->dev);
	u16 opcode = lab_get16(in, 0);
	struct lab_async *async;

	if (in_size < 16 || in_size > LAB_MAX_ASYNC_MAILBOX || out_size < 16 ||
	    out_size > LAB_MAX_ASYNC_MAILBOX)
		return -EINVAL;
	if (opcode == MLX5_CMD_OP_SAVE_VHCA_STATE &&
	    (in_size < 32 || !lab_vf_by_vhca_id(pf, lab_get16(in, 10))))
		return -EINVAL;
	async = kzalloc(sizeof(*async), GFP_KERNEL);
	if (!async)
		return -ENOMEM;
	if (!atomic_inc_not_zero(&ctx->num_inflight)) {
		kfree(async);
		return -EIO;
	}
	work->ctx = ctx;
	work->user_callback = callback;
	work->opcode = opcode;
	work->op_mod = lab_get16(in, 6);
	work->out = out;

	async->ctx = ctx;
	async->work = work;
	async->issued = ktime_get();
	async->out_size = out_size;
	memcpy(async->in, in, in_size);
	INIT_WORK(&async->start, lab_async_start);
	lab_timer_setup(&async->done, lab_async_done);
	if (opcode == MLX5_CMD_OP_SAVE_VHCA_STATE) {
		async->vf = lab_vf_by_vhca_id(pf, lab_get16(in, 10));
		lab_save_claim(async);
	}
	atomic_inc(&pf->async_running);
	queue_work(lab_workqueue, &async->start);
	return 0;
}
EXPORT_SYMBOL(mlx5_cmd_exec_cb);
