/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A TCG plugin that writes down which blocks of instructions the guest
 * executes, with the stack pointer of each, so that scripts/profile_trace.py can
 * tell where the instructions of an operation go.
 *
 *   -plugin trace.so,out=FILE
 *
 * The guest says itself what is traced: a no-op that nothing else contains,
 *
 *   0f 1f 84 00 56 46 54 43    nopl 0x43544656(%rax,%rax,1)
 *
 * starts a section, the next one ends it. Outside of sections the guest runs
 * at nearly its usual speed. Virtual time does not notice the plugin: it is
 * counted in the guest's instructions, and those stay the same.
 *
 * FILE is a sequence of records of three little-endian 64-bit numbers:
 *   pc, stack pointer, instructions    a block was entered at pc; instructions
 *                                      were executed before the next one
 *   0, section, instructions           the end of a section, from 0, and how
 *                                      many instructions it had in all
 *
 * Instructions are counted one by one, because a block may end early: at a
 * page fault, or when an access to a device makes QEMU leave it.
 */
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static const uint8_t marker[8] = { 0x0f, 0x1f, 0x84, 0x00, 'V', 'F', 'T', 'C' };

/* What the generated code reads and counts. There is one CPU. */
typedef struct {
    uint64_t active;
    uint64_t executed;
} Cpu;

static struct qemu_plugin_scoreboard *cpus;
static qemu_plugin_u64 active, executed;

static struct qemu_plugin_register *stack_pointer;
static GByteArray *value;

static FILE *out;
static uint64_t section;

/* The block that was entered last, and the count at that time. */
static struct {
    uint64_t pc, sp, executed;
} last;
static uint64_t section_start;

static void put(uint64_t pc, uint64_t sp, uint64_t instructions)
{
    uint64_t record[3] = { pc, sp, instructions };

    if (fwrite(record, sizeof(record), 1, out) != 1) {
        perror("trace: the file of the trace");
        exit(1);
    }
}

static void put_last(uint64_t now)
{
    if (last.pc) {
        put(last.pc, last.sp, now - last.executed);
    }
    last.pc = 0;
}

static void block_entered(unsigned int cpu, void *pc)
{
    uint64_t now = qemu_plugin_u64_get(executed, cpu);

    put_last(now);
    g_byte_array_set_size(value, 0);
    if (qemu_plugin_read_register(stack_pointer, value) != 8) {
        fprintf(stderr, "trace: the stack pointer cannot be read\n");
        exit(1);
    }
    last.pc = (uintptr_t)pc;
    memcpy(&last.sp, value->data, 8);
    last.executed = now;
}

static void mark(unsigned int cpu, void *unused)
{
    uint64_t now = qemu_plugin_u64_get(executed, cpu);

    if (qemu_plugin_u64_get(active, cpu)) {
        put_last(now);
        put(0, section++, now - section_start);
        fflush(out);
        qemu_plugin_u64_set(active, cpu, 0);
    } else {
        section_start = now;
        qemu_plugin_u64_set(active, cpu, 1);
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    uint8_t bytes[sizeof(marker)];

    qemu_plugin_register_vcpu_tb_exec_cond_cb(
        tb, block_entered, QEMU_PLUGIN_CB_R_REGS, QEMU_PLUGIN_COND_NE, active,
        0, (void *)(uintptr_t)qemu_plugin_tb_vaddr(tb));

    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
            insn, QEMU_PLUGIN_INLINE_ADD_U64, executed, 1);
        if (qemu_plugin_insn_size(insn) == sizeof(marker) &&
            qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) ==
            sizeof(bytes) && !memcmp(bytes, marker, sizeof(marker))) {
            qemu_plugin_register_vcpu_insn_exec_cb(
                insn, mark, QEMU_PLUGIN_CB_NO_REGS, NULL);
        }
    }
}

static void cpu_started(qemu_plugin_id_t id, unsigned int cpu)
{
    g_autoptr(GArray) registers = qemu_plugin_get_registers();

    for (guint i = 0; i < registers->len; i++) {
        qemu_plugin_reg_descriptor *r =
            &g_array_index(registers, qemu_plugin_reg_descriptor, i);

        if (!strcmp(r->name, "rsp")) {
            stack_pointer = r->handle;
            return;
        }
    }
    fprintf(stderr, "trace: the CPU has no register rsp\n");
    exit(1);
}

static void ended(qemu_plugin_id_t id, void *unused)
{
    if (fclose(out)) {
        perror("trace: the file of the trace");
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    if (!info->system_emulation || strcmp(info->target_name, "x86_64") ||
        info->system.max_vcpus != 1) {
        fprintf(stderr, "trace: this is for one x86-64 CPU\n");
        return -1;
    }
    for (int i = 0; i < argc; i++) {
        if (g_str_has_prefix(argv[i], "out=") && !out) {
            out = fopen(argv[i] + 4, "wb");
            if (!out) {
                perror(argv[i] + 4);
                return -1;
            }
        } else {
            fprintf(stderr, "trace: bad argument '%s'\n", argv[i]);
            return -1;
        }
    }
    if (!out) {
        fprintf(stderr, "trace: out=FILE is missing\n");
        return -1;
    }
    cpus = qemu_plugin_scoreboard_new(sizeof(Cpu));
    active = qemu_plugin_scoreboard_u64_in_struct(cpus, Cpu, active);
    executed = qemu_plugin_scoreboard_u64_in_struct(cpus, Cpu, executed);
    value = g_byte_array_new();
    qemu_plugin_register_vcpu_init_cb(id, cpu_started);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
