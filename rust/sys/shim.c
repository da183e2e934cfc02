// SPDX-License-Identifier: GPL-2.0
/*
 * Wrappers for what the kernel's Rust bindings lack: functions of headers that
 * they do not include, and inline functions without a helper. Nothing here
 * decides anything.
 */
#include <linux/anon_inodes.h>
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/page-flags.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "shim.h"

static const struct file_operations vfetch_mapping_fops = {
	.owner = THIS_MODULE,
};

/*
 * A file whose only use is its address_space, or an ERR_PTR.
 */
struct file *vfetch_mapping_create(void)
{
	return anon_inode_create_getfile("[vfetch]", &vfetch_mapping_fops, NULL,
					 O_RDWR, NULL);
}

/* Whether a request must not wait: io_uring asks so of files that can be polled. */
bool vfetch_kiocb_nowait(const struct kiocb *kiocb)
{
	return kiocb->ki_flags & IOCB_NOWAIT;
}

/* Whether the calling task is being killed. */
bool vfetch_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

/* The PF of a VF; the function itself when it is not a VF. */
struct pci_dev *vfetch_pci_physfn(struct pci_dev *pdev)
{
	return pci_physfn(pdev);
}

bool vfetch_pci_is_virtfn(struct pci_dev *pdev)
{
	return pdev->is_virtfn;
}

int vfetch_pci_domain_nr(struct pci_dev *pdev)
{
	return pci_domain_nr(pdev->bus);
}

bool vfetch_iter_will_pin(const struct iov_iter *iter)
{
	return iov_iter_extract_will_pin(iter);
}

phys_addr_t vfetch_page_to_phys(struct page *page)
{
	return page_to_phys(page);
}

bool vfetch_wq_has_sleeper(struct wait_queue_head *head)
{
	return wq_has_sleeper(head);
}

bool vfetch_need_resched(void)
{
	return need_resched();
}

void vfetch_sg_set_page(struct scatterlist *entry, struct page *page, u32 bytes, u32 offset)
{
	sg_set_page(entry, page, bytes, offset);
}

void vfetch_sg_mark_end(struct scatterlist *entry)
{
	sg_mark_end(entry);
}

/* ---- Pages of host memory ------------------------------------------------ */

/*
 * A page for user space, charged to the memory cgroup that the caller charges to, or NULL.
 * __GFP_NOFAIL: the charge goes beyond the cgroup's limit where nobody can be killed for it.
 */
struct page *vfetch_page_alloc(bool zeroed, enum vfetch_need need)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_ACCOUNT;

	if (zeroed)
		gfp |= __GFP_ZERO;
	if (need == VFETCH_NEED_SPARE)
		gfp |= __GFP_NORETRY | __GFP_NOWARN;
	else if (need == VFETCH_NEED_MUST)
		gfp |= __GFP_NOFAIL;
	return alloc_page(gfp);
}

/* How many of the pages, of which there is one at least, are neighbours in physical memory. */
size_t vfetch_pages_contiguous(struct page *const *pages, size_t count)
{
	unsigned long first = page_to_pfn(pages[0]);
	size_t i;

	for (i = 1; i < count; i++)
		if (page_to_pfn(pages[i]) != first + i)
			break;
	return i;
}

void vfetch_page_get(struct page *page)
{
	get_page(page);
}

void vfetch_page_put(struct page *page)
{
	put_page(page);
}

int vfetch_page_count(struct page *page)
{
	return page_count(page);
}

/* Mappings have a reference each. */
int vfetch_page_unmapped_count(struct page *page)
{
	struct folio *folio = page_folio(page);

	return folio_ref_count(folio) - folio_mapcount(folio);
}

/* Whether the page was touched through a mapping that is gone now. Forgets it. */
bool vfetch_page_test_clear_referenced(struct page *page)
{
	return folio_test_clear_referenced(page_folio(page));
}

/* As copy_page_to_iter() and copy_page_from_iter(), which know nothing of iter->nofault. */
size_t vfetch_page_to_iter(struct page *page, size_t offset, size_t bytes, struct iov_iter *iter)
{
	size_t copied;

	if (!iter->nofault)
		return copy_page_to_iter(page, offset, bytes, iter);
	pagefault_disable();
	copied = copy_page_to_iter(page, offset, bytes, iter);
	pagefault_enable();
	return copied;
}

size_t vfetch_page_from_iter(struct page *page, size_t offset, size_t bytes, struct iov_iter *iter)
{
	size_t copied;

	if (!iter->nofault)
		return copy_page_from_iter(page, offset, bytes, iter);
	pagefault_disable();
	copied = copy_page_from_iter(page, offset, bytes, iter);
	pagefault_enable();
	return copied;
}

/* ---- Memory that a device reads and writes where it is ----------------------- */

bool vfetch_dma_map(struct device *dev, void *memory, size_t bytes, dma_addr_t *at)
{
	*at = dma_map_single(dev, memory, bytes, DMA_BIDIRECTIONAL);
	return !dma_mapping_error(dev, *at);
}

bool vfetch_dma_map_page(struct device *dev, struct page *page, size_t offset, size_t bytes,
			 enum dma_data_direction direction, dma_addr_t *at)
{
	*at = dma_map_page(dev, page, offset, bytes, direction);
	return !dma_mapping_error(dev, *at);
}

void vfetch_dma_unmap(struct device *dev, dma_addr_t at, size_t bytes)
{
	dma_unmap_single(dev, at, bytes, DMA_BIDIRECTIONAL);
}

void vfetch_dma_sync_for_device(struct device *dev, dma_addr_t at, size_t bytes)
{
	dma_sync_single_for_device(dev, at, bytes, DMA_BIDIRECTIONAL);
}

void vfetch_dma_sync_for_cpu(struct device *dev, dma_addr_t at, size_t bytes)
{
	dma_sync_single_for_cpu(dev, at, bytes, DMA_BIDIRECTIONAL);
}

/* ---- Events --------------------------------------------------------------------- */

struct eventfd_ctx *vfetch_eventfd_get(int fd)
{
	return eventfd_ctx_fdget(fd);
}

void vfetch_eventfd_signal(struct eventfd_ctx *event)
{
	eventfd_signal(event);
}

void vfetch_eventfd_put(struct eventfd_ctx *event)
{
	eventfd_ctx_put(event);
}

/* ---- Work --------------------------------------------------------------------------- */

/* A queue for work that may run anywhere and that memory reclaim does not wait for, or NULL. */
struct workqueue_struct *vfetch_workqueue_alloc(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND, 0, name);
}

/* ---- Tables ------------------------------------------------------------------- */

void vfetch_xa_init(struct xarray *xa)
{
	xa_init(xa);
}

/* Stores @entry at @index unless something is there, which is returned then; or an XArray error. */
void *vfetch_xa_put(struct xarray *xa, unsigned long index, void *entry)
{
	return __xa_cmpxchg(xa, index, NULL, entry, GFP_KERNEL_ACCOUNT);
}

unsigned long vfetch_total_pages(void)
{
	return totalram_pages();
}

/* The caller's memory cgroup, with a reference; NULL without one. */
struct mem_cgroup *vfetch_memcg_get(void)
{
	return get_mem_cgroup_from_mm(current->mm);
}

void vfetch_memcg_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

/* What the calling thread allocates is charged to @memcg from now on. Returns whom it was charged to. */
struct mem_cgroup *vfetch_memcg_enter(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

/* ---- Mappings ------------------------------------------------------------- */

bool vfetch_vma_shared(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_MAYSHARE;
}

/*
 * Pages are mapped as not accessed: the processor marks those that are used, and
 * vfetch_page_test_clear_referenced() tells when they are unmapped.
 */
void vfetch_vma_prepare(struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_MIXEDMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_page_prot = __pgprot(pgprot_val(vma->vm_page_prot) & ~_PAGE_ACCESSED);
}

void vfetch_fault_describe(const struct vm_fault *vmf, struct vfetch_fault_place *place)
{
	const struct vm_area_struct *vma = vmf->vma;

	place->page = vmf->pgoff;
	place->first = vma->vm_pgoff;
	place->outer = vma->vm_pgoff + vma_pages(vma);
	place->write = vmf->flags & FAULT_FLAG_WRITE;
	place->may_retry = vmf->flags & FAULT_FLAG_ALLOW_RETRY;
	place->may_unlock = place->may_retry && !(vmf->flags & FAULT_FLAG_RETRY_NOWAIT);
	place->again = vmf->flags & FAULT_FLAG_TRIED;
}

/*
 * Maps pages beside the one that faulted, from page @at of the file on, as many as are not
 * mapped yet. Returns how many of the first were dealt with.
 */
unsigned long vfetch_fault_insert(const struct vm_fault *vmf, unsigned long at,
				  struct page **pages, unsigned long count)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long left = count;

	vm_insert_pages(vma, vma->vm_start + ((at - vma->vm_pgoff) << PAGE_SHIFT), pages, &left);
	return count - left;
}

/* Maps a page frame that is no page of memory's where the fault is. */
vm_fault_t vfetch_fault_insert_frame(const struct vm_fault *vmf, u64 frame)
{
	if (pfn_valid(frame))
		return VM_FAULT_SIGBUS;
	return vmf_insert_mixed(vmf->vma, vmf->address, frame);
}

/* Releases the lock of a fault that may do without. The file stays until it is put. */
struct file *vfetch_fault_unlock(struct vm_fault *vmf)
{
	struct file *file = get_file(vmf->vma->vm_file);

	release_fault_lock(vmf);
	return file;
}

/* iov_iter_zero() itself knows nothing of iter->nofault. */
size_t vfetch_iter_zero(struct iov_iter *iter, size_t bytes)
{
	size_t zeroed;

	if (!iter->nofault)
		return iov_iter_zero(bytes, iter);
	pagefault_disable();
	zeroed = iov_iter_zero(bytes, iter);
	pagefault_enable();
	return zeroed;
}
