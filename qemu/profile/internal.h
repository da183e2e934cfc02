/*
 * What the plugins use of QEMU besides its interface for plugins. The binary
 * exports these for its modules.
 *
 * SPDX-License-Identifier: GPL-2.0
 */
#ifndef VFETCH_PROFILE_INTERNAL_H
#define VFETCH_PROFILE_INTERNAL_H

typedef struct CPUState CPUState;

extern __thread CPUState *current_cpu;

/* Adds what @cpu has executed to the virtual clock. */
void icount_update(CPUState *cpu);

#endif /* VFETCH_PROFILE_INTERNAL_H */
