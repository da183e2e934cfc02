/*
 * A TCG plugin that mends virtual time when the guest's CPU halts.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 *   -plugin halt.so      with -icount …,sleep=off
 *
 * With sleep=off, QEMU's main loop moves the clock to the next timer when the
 * CPU is halted (icount_start_warp_timer). But HLT marks the CPU as halted
 * before the instructions that led to it are counted (rr_cpu_thread_fn counts
 * them when it is back from the generated code, without the lock). If the main
 * loop looks in between, it leaps from too early a time, and the instructions
 * are added to where it lands: virtual time then depends on how the host
 * schedules two threads. On a busy machine that is once in some thousand times,
 * enough for two runs to differ.
 *
 * So they are counted before HLT here. HLT ends its block, which means that
 * there is nothing to count after it.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <qemu-plugin.h>

#include "internal.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static void halting(unsigned int cpu, void *unused)
{
    icount_update(current_cpu);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    static const uint8_t hlt[] = { 0xf4 }, mwait[] = { 0x0f, 0x01, 0xc9 };
    struct qemu_plugin_insn *last =
        qemu_plugin_tb_get_insn(tb, qemu_plugin_tb_n_insns(tb) - 1);
    uint8_t bytes[16];
    size_t size = qemu_plugin_insn_data(last, bytes, sizeof(bytes));

    if ((size == sizeof(hlt) && !memcmp(bytes, hlt, sizeof(hlt))) ||
        (size == sizeof(mwait) && !memcmp(bytes, mwait, sizeof(mwait)))) {
        qemu_plugin_register_vcpu_insn_exec_cb(last, halting,
                                               QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    if (!info->system_emulation || strcmp(info->target_name, "x86_64") ||
        info->system.max_vcpus != 1) {
        fprintf(stderr, "halt: this is for one x86-64 CPU\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
