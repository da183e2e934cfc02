/* SPDX-License-Identifier: GPL-2.0 */
/* What shim.c offers to rust/sys/shim.rs. */
#ifndef VFETCH_SHIM_H
#define VFETCH_SHIM_H

#include <linux/types.h>

struct file;
struct iov_iter;
struct kiocb;
struct page;
struct pci_dev;
struct scatterlist;
struct wait_queue_head;

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

#endif /* VFETCH_SHIM_H */
