// SPDX-License-Identifier: GPL-2.0-only
/*
 * Protection domains, memory keys, and access to the memory behind a key.
 *
 * Addresses in a key's translation table are what the DMA API gave to the
 * driver. The PF sits in a translated IOMMU domain, so they go through
 * iommu_iova_to_phys(), which also tells when memory was unmapped too early.
 */
#include <linux/highmem.h>
#include <linux/iommu.h>
#include <linux/slab.h>

#include "mlx5_lab.h"

/* create_mkey_in: the memory key context begins here, the MTT list there. */
#define LAB_MKC 16
#define LAB_MTT 272
#define LAB_MKC_MODE_MTT 1

int mlx5_core_alloc_pd(struct mlx5_core_dev *mdev, u32 *pdn)
{
	struct lab_pf *pf = lab_pf_of(mdev);
	struct lab_fault fault = lab_fault_for(&pf->faults, LAB_WHERE_ALLOC_PD);
	struct lab_pd *pd;
	int ret;

	if (fault.error)
		return fault.error;
	pd = kzalloc(sizeof(*pd), GFP_KERNEL);
	if (!pd)
		return -ENOMEM;
	mutex_lock(&pf->objects_lock);
	ret = xa_alloc(&pf->pds, &pd->number, pd, XA_LIMIT(1, 0xffffff), GFP_KERNEL);
	mutex_unlock(&pf->objects_lock);
	if (ret) {
		kfree(pd);
		return ret;
	}
	*pdn = pd->number;
	return 0;
}
EXPORT_SYMBOL(mlx5_core_alloc_pd);

int mlx5_core_dealloc_pd(struct mlx5_core_dev *mdev, u32 pdn)
{
	struct lab_pf *pf = lab_pf_of(mdev);
	struct lab_pd *pd;
	int ret = -EINVAL;

	mutex_lock(&pf->objects_lock);
	pd = xa_load(&pf->pds, pdn);
	if (!pd) {
		lab_assert_fired(pf, LAB_ASSERT_PD_BUSY, "PD %u freed twice", pdn);
	} else if (pd->mkeys) {
		lab_assert_fired(pf, LAB_ASSERT_PD_BUSY,
				 "PD %u freed under %u live mkeys", pdn, pd->mkeys);
	} else {
		xa_erase(&pf->pds, pdn);
		kfree(pd);
		ret = 0;
	}
	mutex_unlock(&pf->objects_lock);
	return ret;
}
EXPORT_SYMBOL(mlx5_core_dealloc_pd);

int mlx5_core_create_mkey(struct mlx5_core_dev *mdev, u32 *key, u32 *in, int inlen)
{
	struct lab_pf *pf = lab_pf_of(mdev);
	u64 length = lab_get64(in, LAB_MKC + 24);
	unsigned int page_shift = lab_get32(in, LAB_MKC + 56) & 0x3f;
	unsigned int mode = (lab_get32(in, LAB_MKC) >> 8) & 3;
	u32 pdn = lab_get32(in, LAB_MKC + 12) & 0xffffff;
	struct lab_fault fault = lab_fault_for(&pf->faults, LAB_WHERE_CREATE_MKEY);
	struct lab_mkey *mkey;
	struct lab_pd *pd;
	u64 npages;
	u32 index;
	int ret;

	if (fault.error)
		return fault.error;
	npages = DIV_ROUND_UP_ULL(length, PAGE_SIZE);
	if (mode != LAB_MKC_MODE_MTT || page_shift != PAGE_SHIFT || !npages ||
	    inlen < LAB_MTT || npages > (inlen - LAB_MTT) / sizeof(__be64))
		return -EINVAL;
	mkey = kvzalloc(struct_size(mkey, mtt, npages), GFP_KERNEL);
	if (!mkey)
		return -ENOMEM;
	mkey->npages = npages;
	mkey->length = length;
	refcount_set(&mkey->refs, 1);
	memcpy(mkey->mtt, (u8 *)in + LAB_MTT, npages * sizeof(__be64));

	mutex_lock(&pf->objects_lock);
	pd = xa_load(&pf->pds, pdn);
	ret = pd ? xa_alloc(&pf->mkeys, &index, mkey, XA_LIMIT(1, 0xffffff), GFP_KERNEL)
		 : -EINVAL;
	if (!ret) {
		mkey->pd = pd;
		pd->mkeys++;
		mkey->key = index << 8 | (lab_get32(in, LAB_MKC + 4) & 0xff);
		*key = mkey->key;
	}
	mutex_unlock(&pf->objects_lock);
	if (ret)
		kvfree(mkey);
	return ret;
}
EXPORT_SYMBOL(mlx5_core_create_mkey);

int mlx5_core_destroy_mkey(struct mlx5_core_dev *mdev, u32 key)
{
	struct lab_pf *pf = lab_pf_of(mdev);
	struct lab_mkey *mkey;

	mutex_lock(&pf->objects_lock);
	mkey = xa_erase(&pf->mkeys, key >> 8);
	if (mkey) {
		mkey->destroyed = true;
		mkey->pd->mkeys--;
		if (refcount_read(&mkey->refs) > 1)
			lab_assert_fired(pf, LAB_ASSERT_MKEY_DESTROYED_BUSY,
					 "mkey 0x%x destroyed while a command uses it", key);
	}
	mutex_unlock(&pf->objects_lock);
	if (!mkey) {
		lab_assert_fired(pf, LAB_ASSERT_MKEY_DESTROYED_BUSY,
				 "mkey 0x%x destroyed twice", key);
		return -EINVAL;
	}
	lab_mkey_put(mkey);
	return 0;
}
EXPORT_SYMBOL(mlx5_core_destroy_mkey);

/* Find a key and keep it usable until lab_mkey_put(). */
struct lab_mkey *lab_mkey_get(struct lab_pf *pf, u32 key)
{
	struct lab_mkey *mkey;

	mutex_lock(&pf->objects_lock);
	mkey = xa_load(&pf->mkeys, key >> 8);
	if (mkey && mkey->key == key)
		refcount_inc(&mkey->refs);
	else
		mkey = NULL;
	mutex_unlock(&pf->objects_lock);
	return mkey;
}

void lab_mkey_put(struct lab_mkey *mkey)
{
	if (refcount_dec_and_test(&mkey->refs))
		kvfree(mkey);
}

/* The memory at an address of the driver's DMA mappings; NULL if it is gone. */
void *lab_dma_memory(struct lab_pf *pf, dma_addr_t address)
{
	phys_addr_t phys = pf->domain ? iommu_iova_to_phys(pf->domain, address)
				      : address;

	if (!phys || !pfn_valid(PHYS_PFN(phys)))
		return NULL;
	return phys_to_virt(phys);
}

static void *lab_page(struct lab_pf *pf, struct lab_mkey *mkey, unsigned int page)
{
	return lab_dma_memory(pf, be64_to_cpu(mkey->mtt[page]) & PAGE_MASK);
}

/*
 * Copy between @buffer and the memory behind @mkey. Returns 0, or -EFAULT when
 * the memory is not mapped any more, which is an assertion.
 */
int lab_mkey_copy(struct lab_pf *pf, struct lab_mkey *mkey, u64 offset,
		  void *buffer, size_t length, bool to_mkey)
{
	while (length) {
		unsigned int in_page = offset_in_page(offset);
		size_t part = min_t(size_t, length, PAGE_SIZE - in_page);
		u8 *page = NULL;

		if (offset >> PAGE_SHIFT < mkey->npages && !READ_ONCE(mkey->destroyed))
			page = lab_page(pf, mkey, offset >> PAGE_SHIFT);
		if (!page) {
			lab_assert_fired(pf, LAB_ASSERT_UNMAPPED,
					 "mkey 0x%x: no memory at offset %llu",
					 mkey->key, offset);
			return -EFAULT;
		}
		if (to_mkey)
			memcpy(page + in_page, buffer, part);
		else
			memcpy(buffer, page + in_page, part);
		offset += part;
		buffer += part;
		length -= part;
	}
	return 0;
}

/*
 * Tell whether the first @length bytes behind @mkey are (still) mapped. It is
 * called in hard interrupt context, so it samples the pages of a large image.
 */
bool lab_mkey_mapped(struct lab_pf *pf, struct lab_mkey *mkey, u64 length)
{
	unsigned int npages = DIV_ROUND_UP_ULL(length, PAGE_SIZE);
	unsigned int step = max(1U, npages / 64);
	unsigned int page;

	if (READ_ONCE(mkey->destroyed))
		return false;
	for (page = 0; page < npages; page += step)
		if (!lab_page(pf, mkey, page))
			return false;
	return true;
}

/* Return how many PDs and mkeys the driver left, and free them. */
unsigned long lab_objects_left(struct lab_pf *pf, const char **kind)
{
	unsigned long index, left = 0;
	struct lab_mkey *mkey;
	struct lab_pd *pd;

	xa_for_each(&pf->mkeys, index, mkey) {
		*kind = "mkeys";
		left++;
		lab_mkey_put(mkey);
	}
	xa_for_each(&pf->pds, index, pd) {
		*kind = left ? "mkeys and PDs" : "PDs";
		left++;
		kfree(pd);
	}
	xa_destroy(&pf->mkeys);
	xa_destroy(&pf->pds);
	return left;
}
