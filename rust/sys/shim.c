// SPDX-License-Identifier: GPL-2.0
/*
 * Wrappers for what the kernel's Rust bindings lack: functions of headers that
 * they do not include, and inline functions without a helper. Nothing here
 * decides anything.
 */
#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/wait.h>

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
