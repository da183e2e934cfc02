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

#include "shim.h"

static const struct file_operations vfetch_mapping_fops = {
	.owner = THIS_MODULE,
};

/*
 * A file whose only use is its address_space. Returns NULL-free: a file or an
 * ERR_PTR.
 */
struct file *vfetch_mapping_create(void)
{
	return anon_inode_create_getfile("[vfetch]", &vfetch_mapping_fops, NULL,
					 O_RDWR, NULL);
}

/* The PF of a VF; the function itself when it is not a VF. */
struct pci_dev *vfetch_pci_physfn(struct pci_dev *pdev)
{
	return pci_physfn(pdev);
}

/* Its position among the functions of its PF: 0 for a PF, n for the nth VF. */
bool vfetch_pci_is_virtfn(struct pci_dev *pdev)
{
	return pdev->is_virtfn;
}

int vfetch_pci_domain_nr(struct pci_dev *pdev)
{
	return pci_domain_nr(pdev->bus);
}

bool vfetch_dma_mapping_error(struct device *dev, dma_addr_t addr)
{
	return dma_mapping_error(dev, addr);
}
