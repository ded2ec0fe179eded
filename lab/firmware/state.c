// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of a simulated VF: memory that changes while the VF runs.
 *
 * Nothing runs in the background. Whoever looks at the state first makes up
 * for the time since the last look, which gives the same result and keeps an
 * idle lab idle.
 */
#include <linux/bitmap.h>
#include <linux/kmemleak.h>
#include <linux/math64.h>
#include <linux/prandom.h>
#include <linux/random.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "mlx5_lab.h"

static u64 lab_next_random(u64 *state)
{
	/* Marsaglia's xorshift64: the quality does not matter, the speed does. */
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

void lab_state_free(struct lab_state *state)
{
	vfree(state->mem);
	bitmap_free(state->dirty);
	state->mem = NULL;
	state->dirty = NULL;
}

/* Fill the state with content that no other VF has. */
void lab_state_randomize(struct lab_state *state)
{
	u64 *word = (u64 *)state->mem;
	u64 *end = (u64 *)(state->mem + state->size_bytes);

	state->random = get_random_u64() | 1;
	while (word < end)
		*word++ = lab_next_random(&state->random);
	bitmap_zero(state->dirty, state->nblocks);
	state->carry_bytes = 0;
	state->advanced = ktime_get();
}

/* Give the state another size; the old content is kept when memory runs out. */
int lab_state_resize(struct lab_state *state, u64 size_bytes)
{
	unsigned long nblocks = size_bytes / LAB_BLOCK_SIZE;
	struct lab_state fresh = {
		.size_bytes = nblocks * LAB_BLOCK_SIZE,
		.nblocks = nblocks,
	};

	if (!nblocks)
		return -EINVAL;
	fresh.mem = vmalloc(fresh.size_bytes);
	/* Random bytes, among which kmemleak would take its time to see pointers. */
	if (fresh.mem)
		kmemleak_no_scan(fresh.mem);
	fresh.dirty = bitmap_zalloc(nblocks, GFP_KERNEL);
	if (!fresh.mem || !fresh.dirty) {
		lab_state_free(&fresh);
		return -ENOMEM;
	}
	lab_state_free(state);
	*state = fresh;
	lab_state_randomize(state);
	return 0;
}

/* Make up for the time since the last call: a VF that runs dirties its state. */
void lab_state_advance(struct lab_vf *vf)
{
	struct lab_state *state = &vf->state;
	ktime_t now = ktime_get();
	u64 elapsed_us = ktime_us_delta(now, state->advanced);
	unsigned long set, blocks;

	state->advanced = now;
	if (vf->responder_suspended) {
		state->carry_bytes = 0;
		return;
	}
	/* After a minute without a look every block of the set is dirty anyway. */
	elapsed_us = min_t(u64, elapsed_us, 60 * USEC_PER_SEC);
	state->carry_bytes += mul_u64_u64_div_u64(elapsed_us,
						  vf->knobs.dirty_bytes_per_s,
						  USEC_PER_SEC);
	set = clamp_t(u64, vf->knobs.working_set_bytes / LAB_BLOCK_SIZE, 1,
		      state->nblocks);
	blocks = min_t(u64, state->carry_bytes / LAB_BLOCK_SIZE, 4 * set);
	state->carry_bytes %= LAB_BLOCK_SIZE;
	while (blocks--) {
		u64 random = lab_next_random(&state->random);
		unsigned long block = (u32)random % set;
		unsigned int word = (random >> 32) % (LAB_BLOCK_SIZE / 8);

		((u64 *)(state->mem + block * LAB_BLOCK_SIZE))[word] = random;
		__set_bit(block, state->dirty);
	}
}

u64 lab_state_hash(const struct lab_state *state)
{
	return xxh64(state->mem, state->size_bytes, state->size_bytes);
}
