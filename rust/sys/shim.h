/* SPDX-License-Identifier: GPL-2.0 */
/* What shim.c offers to rust/sys/shim.rs. */
#ifndef VFETCH_SHIM_H
#define VFETCH_SHIM_H

#include <linux/dma-direction.h>
#include <linux/types.h>

struct device;
struct eventfd_ctx;
struct file;
struct iov_iter;
struct kiocb;
struct mem_cgroup;
struct page;
struct pci_dev;
struct scatterlist;
struct vm_area_struct;
struct vm_fault;
struct wait_queue_head;
struct workqueue_struct;
struct xarray;

/* Where a fault is, in pages of its file. */
struct vfetch_fault_place {
	unsigned long page;
	/* What the mapping covers. */
	unsigned long first, outer;
	bool write;
	/* It may be answered that it is to come again; and its lock be released before. */
	bool may_retry;
	bool may_unlock;
	/* It was here before, and has waited. */
	bool again;
};

/* How much a page is needed. */
enum vfetch_need {
	VFETCH_NEED_SPARE,
	VFETCH_NEED_WANT,
	VFETCH_NEED_MUST,
};

struct file *vfetch_mapping_create(void);
bool vfetch_kiocb_nowait(const struct kiocb *kiocb);
bool vfetch_fatal_signal_pending(void);
struct pci_dev *vfetch_pci_physfn(struct pci_dev *pdev);
bool vfetch_pci_is_virtfn(struct pci_dev *pdev);
int vfetch_pci_domain_nr(struct pci_dev *pdev);
bool vfetch_iter_will_pin(const struct iov_iter *iter);
phys_addr_t vfetch_page_to_phys(struct page *page);
bool vfetch_wq_has_sleeper(struct wait_queue_head *head);
bool vfetch_need_resched(void);
void vfetch_sg_set_page(struct scatterlist *entry, struct page *page, u32 bytes, u32 offset);
void vfetch_sg_mark_end(struct scatterlist *entry);
size_t vfetch_iter_zero(struct iov_iter *iter, size_t bytes);
struct page *vfetch_page_alloc(bool zeroed, enum vfetch_need need);
size_t vfetch_pages_contiguous(struct page *const *pages, size_t count);
void vfetch_page_get(struct page *page);
void vfetch_page_put(struct page *page);
int vfetch_page_count(struct page *page);
int vfetch_page_unmapped_count(struct page *page);
bool vfetch_page_test_clear_referenced(struct page *page);
size_t vfetch_page_to_iter(struct page *page, size_t offset, size_t bytes, struct iov_iter *iter);
size_t vfetch_page_from_iter(struct page *page, size_t offset, size_t bytes, struct iov_iter *iter);
void vfetch_vma_prepare(struct vm_area_struct *vma);
bool vfetch_vma_shared(const struct vm_area_struct *vma);
void vfetch_fault_describe(const struct vm_fault *vmf, struct vfetch_fault_place *place);
unsigned long vfetch_fault_insert(const struct vm_fault *vmf, unsigned long at,
				  struct page **pages, unsigned long count);
bool vfetch_dma_map(struct device *dev, void *memory, size_t bytes, dma_addr_t *at);
bool vfetch_dma_map_page(struct device *dev, struct page *page, size_t offset, size_t bytes,
			 enum dma_data_direction direction, dma_addr_t *at);
void vfetch_dma_unmap(struct device *dev, dma_addr_t at, size_t bytes);
void vfetch_dma_sync_for_device(struct device *dev, dma_addr_t at, size_t bytes);
void vfetch_dma_sync_for_cpu(struct device *dev, dma_addr_t at, size_t bytes);
struct eventfd_ctx *vfetch_eventfd_get(int fd);
void vfetch_eventfd_signal(struct eventfd_ctx *event);
void vfetch_eventfd_put(struct eventfd_ctx *event);
unsigned long vfetch_total_pages(void);
struct mem_cgroup *vfetch_memcg_get(void);
void vfetch_memcg_put(struct mem_cgroup *memcg);
struct mem_cgroup *vfetch_memcg_enter(struct mem_cgroup *memcg);
struct workqueue_struct *vfetch_workqueue_alloc(const char *name);
void vfetch_xa_init(struct xarray *xa);
void *vfetch_xa_put(struct xarray *xa, unsigned long index, void *entry);
vm_fault_t vfetch_fault_insert_frame(const struct vm_fault *vmf, u64 frame);
struct file *vfetch_fault_unlock(struct vm_fault *vmf);

#endif /* VFETCH_SHIM_H */
