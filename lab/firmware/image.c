// SPDX-License-Identifier: GPL-2.0-only
/*
 * Images: what SAVE writes and LOAD reads.
 *
 * An image is a header and the blocks of the state that it carries. Images of
 * a stream form a chain: each names its session, its place in it and the CRC of
 * the image before, so that a lost, reordered, repeated, foreign or damaged
 * image is refused. The final one carries a hash of the whole state.
 */
#include <linux/bitmap.h>
#include <linux/crc32.h>
#include <linux/random.h>

#include "mlx5_lab.h"

#define LAB_IMAGE_MAGIC 0x4d4942414c584c4dULL /* "MLXLABIM" */
#define LAB_IMAGE_VERSION 1
#define LAB_IMAGE_FULL BIT(0)
#define LAB_IMAGE_FINAL BIT(1)

struct lab_image_header {
	__le64 magic;
	__le32 version;
	__le32 flags;
	__le64 session;
	__le32 seq;
	__le32 base_crc;	/* of the image that this one builds on */
	__le64 length;		/* of the image, this header included */
	__le64 state_bytes;
	__le64 state_hash;	/* of the state afterwards; final images only */
	__le32 nblocks;
	__le32 crc;		/* of header (this field zero) and blocks */
};

struct lab_block {
	__le64 index;
	u8 data[LAB_BLOCK_SIZE];
};

u64 lab_image_bytes(u64 nblocks)
{
	return sizeof(struct lab_image_header) + nblocks * sizeof(struct lab_block);
}

static int lab_put_block(struct lab_vf *vf, struct lab_mkey *mkey,
			 unsigned long index, u64 *offset, u32 *crc)
{
	u8 *data = vf->state.mem + index * LAB_BLOCK_SIZE;
	__le64 number = cpu_to_le64(index);
	int ret;

	ret = lab_mkey_copy(vf->pf, mkey, *offset, &number, sizeof(number), true);
	if (ret)
		return ret;
	*offset += sizeof(number);
	ret = lab_mkey_copy(vf->pf, mkey, *offset, data, LAB_BLOCK_SIZE, true);
	if (ret)
		return ret;
	*offset += LAB_BLOCK_SIZE;
	*crc = crc32_le(*crc, (u8 *)&number, sizeof(number));
	*crc = crc32_le(*crc, data, LAB_BLOCK_SIZE);
	return 0;
}

/* The next image's place in the chain of a SAVE stream. */
static void lab_continue_chain(struct lab_vf *vf, const struct lab_image *image)
{
	struct lab_chain *chain = &vf->save_chain;

	/* A full image on an untracked VF begins a stream of its own. */
	if (!image->full || vf->tracked)
		return;
	*chain = (struct lab_chain){ .session = get_random_u64() };
}

/* Flip a bit in the middle of an image: its CRC tells. */
int lab_image_damage(struct lab_vf *vf, struct lab_mkey *mkey, u64 length)
{
	u8 byte;

	if (lab_mkey_copy(vf->pf, mkey, length / 2, &byte, 1, false))
		return -EFAULT;
	byte ^= 1;
	return lab_mkey_copy(vf->pf, mkey, length / 2, &byte, 1, true);
}

/*
 * Write the image that the dirty bits (or a full image) ask for to @mkey. The
 * caller has checked that it fits, or that the rest may follow in other chunks:
 * then the image is not a final one. Returns a command status.
 */
int lab_image_write(struct lab_vf *vf, struct lab_mkey *mkey,
		    struct lab_image *image, u64 *length, u32 *syndrome)
{
	struct lab_state *state = &vf->state;
	struct lab_chain *chain = &vf->save_chain;
	struct lab_image_header header = {};
	u64 offset = sizeof(header);
	unsigned long index;
	u32 crc = ~0, n = 0;

	lab_continue_chain(vf, image);
	if (image->full)
		bitmap_fill(state->dirty, state->nblocks);
	for_each_set_bit(index, state->dirty, state->nblocks) {
		if (lab_image_bytes(n + 1) > image->room)
			break;
		if (lab_put_block(vf, mkey, index, &offset, &crc))
			goto unmapped;
		n++;
	}
	/* All that is below the block that did not fit is in the image. */
	bitmap_clear(state->dirty, 0, min(index, state->nblocks));
	image->final &= bitmap_empty(state->dirty, state->nblocks);
	header.magic = cpu_to_le64(LAB_IMAGE_MAGIC);
	header.version = cpu_to_le32(LAB_IMAGE_VERSION);
	header.flags = cpu_to_le32((image->full ? LAB_IMAGE_FULL : 0) |
				   (image->final ? LAB_IMAGE_FINAL : 0));
	header.session = cpu_to_le64(chain->session);
	header.seq = cpu_to_le32(chain->next_seq);
	header.base_crc = cpu_to_le32(chain->last_crc);
	header.length = cpu_to_le64(offset);
	header.state_bytes = cpu_to_le64(state->size_bytes);
	if (image->final)
		header.state_hash = cpu_to_le64(lab_state_hash(state));
	header.nblocks = cpu_to_le32(n);
	crc = crc32_le(crc, (u8 *)&header, sizeof(header));
	header.crc = cpu_to_le32(crc);
	if (lab_mkey_copy(vf->pf, mkey, 0, &header, sizeof(header), true))
		goto unmapped;
	if (image->damage && lab_image_damage(vf, mkey, offset))
		goto unmapped;

	chain->last_crc = crc;
	chain->next_seq++;
	*length = offset;
	return MLX5_CMD_STAT_OK;

unmapped:
	*syndrome = LAB_SYND_UNMAPPED;
	return MLX5_CMD_STAT_BAD_RES_ERR;
}

static u32 lab_check_chain(struct lab_vf *vf, const struct lab_image_header *header)
{
	struct lab_chain *chain = &vf->load_chain;
	u64 session = le64_to_cpu(header->session);
	bool restart = !chain->started || chain->complete ||
		       chain->session != session;

	if (!le32_to_cpu(header->seq) && restart) {
		if (!(le32_to_cpu(header->flags) & LAB_IMAGE_FULL))
			return LAB_SYND_IMAGE_BASE;
		return LAB_SYND_NONE;
	}
	if (restart)
		return LAB_SYND_IMAGE_BASE;
	if (le32_to_cpu(header->seq) != chain->next_seq)
		return LAB_SYND_IMAGE_SEQUENCE;
	if (le32_to_cpu(header->base_crc) != chain->last_crc)
		return LAB_SYND_IMAGE_BASE;
	return LAB_SYND_NONE;
}

static u32 lab_check_header(struct lab_vf *vf, const struct lab_image_header *header,
			    u64 length)
{
	if (le64_to_cpu(header->magic) != LAB_IMAGE_MAGIC ||
	    le32_to_cpu(header->version) != LAB_IMAGE_VERSION)
		return LAB_SYND_IMAGE_MAGIC;
	if (le64_to_cpu(header->length) != length ||
	    lab_image_bytes(le32_to_cpu(header->nblocks)) != length)
		return LAB_SYND_IMAGE_LENGTH;
	return lab_check_chain(vf, header);
}

static u32 lab_check_crc(struct lab_vf *vf, struct lab_mkey *mkey, u64 length,
			 const struct lab_image_header *header)
{
	struct lab_image_header zeroed = *header;
	u8 chunk[512];
	u64 offset;
	u32 crc = ~0;

	for (offset = sizeof(*header); offset < length;) {
		size_t part = min_t(u64, sizeof(chunk), length - offset);

		if (lab_mkey_copy(vf->pf, mkey, offset, chunk, part, false))
			return LAB_SYND_UNMAPPED;
		crc = crc32_le(crc, chunk, part);
		offset += part;
	}
	zeroed.crc = 0;
	crc = crc32_le(crc, (u8 *)&zeroed, sizeof(zeroed));
	return crc == le32_to_cpu(header->crc) ? LAB_SYND_NONE : LAB_SYND_IMAGE_CRC;
}

static u32 lab_apply_blocks(struct lab_vf *vf, struct lab_mkey *mkey, u32 nblocks)
{
	u64 offset = sizeof(struct lab_image_header);
	struct lab_state *state = &vf->state;
	__le64 number;

	while (nblocks--) {
		u64 index;

		if (lab_mkey_copy(vf->pf, mkey, offset, &number, sizeof(number), false))
			return LAB_SYND_UNMAPPED;
		index = le64_to_cpu(number);
		if (index >= state->nblocks)
			return LAB_SYND_IMAGE_BLOCK;
		if (lab_mkey_copy(vf->pf, mkey, offset + sizeof(number),
				  state->mem + index * LAB_BLOCK_SIZE,
				  LAB_BLOCK_SIZE, false))
			return LAB_SYND_UNMAPPED;
		offset += sizeof(struct lab_block);
	}
	return LAB_SYND_NONE;
}

/* Check the image behind @mkey whole, then take it over. Returns a status. */
int lab_image_load(struct lab_vf *vf, struct lab_mkey *mkey, u64 length,
		   u32 *syndrome)
{
	struct lab_chain *chain = &vf->load_chain;
	struct lab_image_header header;
	u64 state_bytes;

	*syndrome = LAB_SYND_IMAGE_LENGTH;
	if (length < sizeof(header))
		goto refused;
	*syndrome = LAB_SYND_UNMAPPED;
	if (lab_mkey_copy(vf->pf, mkey, 0, &header, sizeof(header), false))
		goto refused;
	*syndrome = lab_check_header(vf, &header, length);
	if (*syndrome)
		goto refused;
	*syndrome = lab_check_crc(vf, mkey, length, &header);
	if (*syndrome)
		goto refused;

	state_bytes = le64_to_cpu(header.state_bytes);
	if (state_bytes != vf->state.size_bytes) {
		*syndrome = LAB_SYND_NO_MEMORY;
		if (!(le32_to_cpu(header.flags) & LAB_IMAGE_FULL) ||
		    lab_state_resize(&vf->state, state_bytes))
			goto refused;
	}
	*syndrome = lab_apply_blocks(vf, mkey, le32_to_cpu(header.nblocks));
	if (*syndrome)
		goto refused;

	chain->started = true;
	chain->session = le64_to_cpu(header.session);
	chain->next_seq = le32_to_cpu(header.seq) + 1;
	chain->last_crc = le32_to_cpu(header.crc);
	chain->complete = le32_to_cpu(header.flags) & LAB_IMAGE_FINAL;
	if (chain->complete &&
	    le64_to_cpu(header.state_hash) != lab_state_hash(&vf->state)) {
		*syndrome = LAB_SYND_IMAGE_STATE;
		goto refused;
	}
	return MLX5_CMD_STAT_OK;

refused:
	/* What was loaded so far is of no use: a new stream may begin. */
	chain->started = false;
	chain->complete = false;
	return MLX5_CMD_STAT_BAD_PARAM_ERR;
}
