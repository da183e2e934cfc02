/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What bindgen reads. It cannot evaluate the _IOWR() macros, so the command
 * numbers are given to it as constants of an enumeration.
 */
#include <linux/vfetch.h>

enum libvfetch_command {
	LIBVFETCH_GET_INFO = VFETCH_IOC_GET_INFO,
	LIBVFETCH_GET_STATS = VFETCH_IOC_GET_STATS,
	LIBVFETCH_SET_SIZE = VFETCH_IOC_SET_SIZE,
	LIBVFETCH_DISCARD = VFETCH_IOC_DISCARD,
	LIBVFETCH_SUBMIT = VFETCH_IOC_SUBMIT,
	LIBVFETCH_WAIT = VFETCH_IOC_WAIT,
	LIBVFETCH_CANCEL = VFETCH_IOC_CANCEL,
};
