/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: both interfaces, and the ioctl commands as constants,
 * since bindgen does not evaluate macros that contain sizeof.
 */
#include <vfetch_hw.h>
#include <linux/vfetch.h>

enum vfetch_command {
	VFETCH_COMMAND_GET_INFO = VFETCH_IOC_GET_INFO,
	VFETCH_COMMAND_GET_STATS = VFETCH_IOC_GET_STATS,
	VFETCH_COMMAND_SET_SIZE = VFETCH_IOC_SET_SIZE,
	VFETCH_COMMAND_DISCARD = VFETCH_IOC_DISCARD,
	VFETCH_COMMAND_SUBMIT = VFETCH_IOC_SUBMIT,
	VFETCH_COMMAND_WAIT = VFETCH_IOC_WAIT,
	VFETCH_COMMAND_CANCEL = VFETCH_IOC_CANCEL,
};
