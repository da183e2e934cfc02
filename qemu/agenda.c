/*
 * vfetch: what is due when.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A binary heap of appointments, the soonest first, in the order of making
 * among those of the same time.
 */
#include "qemu/osdep.h"
#include "vfetch.h"

static bool before(const VfetchAppointment *a, const VfetchAppointment *b)
{
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

static void put(VfetchAgenda *a, uint32_t place, VfetchAppointment *e)
{
    a->heap[place] = e;
    e->place = place;
}

/* Moves @e, which may be anywhere, from @place to where it belongs. */
static void settle(VfetchAgenda *a, uint32_t place, VfetchAppointment *e)
{
    while (place > 1 && before(e, a->heap[place / 2])) {
        put(a, place, a->heap[place / 2]);
        place /= 2;
    }
    for (;;) {
        uint32_t child = 2 * place;

        if (child > a->made) {
            break;
        }
        if (child < a->made && before(a->heap[child + 1], a->heap[child])) {
            child++;
        }
        if (!before(a->heap[child], e)) {
            break;
        }
        put(a, place, a->heap[child]);
        place = child;
    }
    put(a, place, e);
}

/* Makes @e for @at, or moves it there. */
void vfetch_agenda_add(VfetchAgenda *a, VfetchAppointment *e, int64_t at)
{
    vfetch_agenda_remove(a, e);
    e->at = at;
    e->order = a->order++;
    if (a->made + 2 > a->room) {
        a->room = MAX(64, 2 * a->room);
        a->heap = g_renew(VfetchAppointment *, a->heap, a->room);
    }
    a->made++;
    settle(a, a->made, e);
}

void vfetch_agenda_remove(VfetchAgenda *a, VfetchAppointment *e)
{
    uint32_t place = e->place;

    if (place) {
        VfetchAppointment *last = a->heap[a->made--];

        if (last != e) {
            settle(a, place, last);
        }
        e->place = 0;
    }
}

void vfetch_agenda_free(VfetchAgenda *a)
{
    g_free(a->heap);
    memset(a, 0, sizeof(*a));
}
