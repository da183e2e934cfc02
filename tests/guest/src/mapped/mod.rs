// SPDX-License-Identifier: GPL-2.0

//! Managed memory: spaces as memory of processes and of jobs, at the same time.

mod advised;
mod broken;
mod charged;
mod coherent;
pub(crate) mod direct;
mod evicted;
mod flat;
mod hints;
mod jobs;
mod kernels;
pub(crate) mod lost;
mod mapping;
mod orders;
mod others;
mod policies;
mod recency;
mod thrashing;
mod trace;
mod unbound;
mod waits;

use anyhow::{Context, Result};
use libvfetch::{stamped, Function, PolicyKind, Space, Stamp, StampCheck};
use rustix::mm::ProtFlags;

use crate::{
    bounded,
    life::machine::MIB,
    support::{
        buffer::Mapping,
        machine::{leaves_nothing, pf, vf, PAGE},
    },
    tap::Group,
};

pub(crate) const RIGHTS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Words of a page.
const WORDS: usize = PAGE / 8;

/// Pages of a MiB.
const MIB_PAGES: usize = 256;

/// Runs `test` on the PF and on a VF, which get everything back.
fn on_pf_and_vf(test: impl Fn(&Function) -> Result<()>) -> Result<()> {
    for function in [pf()?, vf(1)?] {
        leaves_nothing(&function, || test(&function))
            .with_context(|| format!("on {}", function.role))?;
    }
    Ok(())
}

/// A space of `pages`, and all of it mapped.
pub(crate) fn mapped(function: &Function, pages: usize) -> Result<(Space, Mapping)> {
    let space = crate::support::machine::space(function, (pages * PAGE) as u64)?;
    let mapping = Mapping::part_of(&space, 0, pages * PAGE, RIGHTS)?;
    Ok((space, mapping))
}

/// Has the device stamp `pages` pages from `first` on: they are its own then.
pub(crate) fn device_stamps(
    space: &Space,
    first: usize,
    pages: usize,
    generation: u64,
) -> Result<()> {
    let stamp = Stamp {
        output: (first * PAGE) as u64,
        n: (pages * WORDS) as u64,
        first: (first * WORDS) as u64,
        generation,
    };
    space.submit(&stamp.into())?.wait()?;
    Ok(())
}

/// Words among `pages` pages from `first` on that the device finds not to be of `generation`.
fn device_finds(space: &Space, first: usize, pages: usize, generation: u64) -> Result<u64> {
    let check = StampCheck {
        input: (first * PAGE) as u64,
        n: (pages * WORDS) as u64,
        first: (first * WORDS) as u64,
        lowest: generation,
        highest: generation,
    };
    Ok(space.submit(&check.into())?.wait()?)
}

/// Has `function` prefetch as `kind` says while `test` runs.
fn under<T>(function: &Function, kind: PolicyKind, test: impl FnOnce() -> Result<T>) -> Result<T> {
    let space = Space::open(function)?;
    let before = space.policy()?;
    let mut policy = before;
    policy.policy = kind;
    space.set_policy(policy)?;
    let result = test();
    space.set_policy(before)?;
    result
}

/// What stamped pages hold.
pub(crate) fn stamped_bytes(first: usize, pages: usize, generation: u64) -> Vec<u8> {
    let words = first * WORDS..(first + pages) * WORDS;
    words
        .flat_map(|word| stamped(word as u64, generation).to_le_bytes())
        .collect()
}

/// The groups of this part.
pub(crate) fn groups() -> Vec<Group> {
    vec![
        Group {
            name: "mapped",
            about: "spaces as memory: mappings, read, write and jobs see the same bytes",
            tests: bounded![60:
                coherent::what_is_written_one_way_is_seen_every_other_way,
                coherent::random_use_of_all_functions_at_once_matches_a_model,
                coherent::reads_and_writes_go_over_pages_of_both_sides_at_any_offset,
                coherent::threads_and_jobs_that_share_pages_lose_no_update,
                coherent::stores_are_seen_in_their_order,
                coherent::mappings_of_different_parts_are_the_same_memory,
                mapping::what_was_never_written_is_zeros,
                mapping::a_mapping_keeps_the_space,
                mapping::a_forked_child_shares_the_pages,
                mapping::a_moved_mapping_is_the_same_memory,
                mapping::a_mapping_does_not_grow_and_is_in_no_core_dump,
                mapping::what_is_left_of_a_mapping_works,
                mapping::rights_are_taken_and_given,
                mapping::advice_changes_no_contents,
                mapping::a_file_opened_for_reading_is_not_written,
                mapping::beyond_the_end_is_sigbus,
                mapping::a_space_that_shrinks_and_grows_shows_zeros,
                mapping::discarded_pages_are_zeros_in_all_mappings,
                mapping::the_largest_space_is_mapped_sparsely,
                others::proc_mem_and_process_vm_see_the_pages,
                others::a_debugger_sees_and_changes_the_pages,
                others::a_mapping_is_a_buffer_of_its_own_space,
                others::a_mapping_is_a_buffer_of_other_spaces_and_files,
                others::io_uring_moves_data_to_and_from_a_mapping,
                others::registered_pages_stay_where_they_are_and_the_device_sees_them,
            ],
        },
        Group {
            name: "evicted",
            about: "more contents than there is room for on one side, or on both; where pages are",
            tests: bounded![60:
                evicted::jobs_use_more_than_device_memory,
                evicted::moves_at_a_time_keep_to_the_limit,
                evicted::processes_use_more_than_the_host_may_hold,
                evicted::contents_that_fit_nowhere_are_refused_and_others_stay,
                evicted::threads_and_jobs_under_pressure_see_only_what_was_written,
                evicted::spaces_share_the_limits_of_their_function,
                evicted::pages_go_to_the_device_when_the_machine_needs_memory,
                recency::what_jobs_use_stays_on_the_device,
                recency::what_is_read_stays_on_the_device,
                recency::what_processes_use_stays_on_the_host,
                evicted::limits_that_cannot_be_are_refused,
                evicted::residency_tells_where_pages_are,
                policies::policies_that_cannot_be_are_refused,
                policies::every_policy_moves_pages_right_and_is_counted,
            ],
        },
        Group {
            name: "charged",
            about: "the memory cgroup that host pages are charged to",
            tests: bounded![60:
                charged::host_pages_are_charged_to_who_opened_the_file,
                charged::a_full_cgroup_has_pages_go_to_the_device_and_nobody_is_killed,
                charged::without_any_memory_new_contents_are_refused_and_others_stay,
            ],
        },
        Group {
            name: "advised",
            about: "what is said of pages: where they are wanted, what comes along, what is brought",
            tests: bounded![60:
                advised::pages_that_are_wanted_on_the_host_are_reached_there,
                advised::jobs_ask_for_blocks_that_the_device_is_yet_to_know,
                advised::first_contents_go_where_they_are_wanted,
                advised::nothing_comes_along_where_it_was_said,
                advised::pages_that_will_be_needed_are_brought,
                advised::no_more_is_brought_than_there_may_be,
                advised::advice_that_cannot_be_is_refused,
            ],
        },
        Group {
            name: "hints",
            about: "what the engine decides, seen from outside",
            tests: bounded![60:
                hints::a_block_is_read_by_as_many_faults_as_the_tree_says,
                hints::what_comes_along_bit_by_bit_is_counted_once,
                hints::what_goes_unused_is_told_from_what_was_used,
            ],
        },
        Group {
            name: "jobs",
            about: "jobs of a function on managed memory",
            tests: bounded![60:
                jobs::every_kind_computes_what_the_host_does,
                jobs::a_job_that_leaves_its_space_says_where,
                jobs::a_space_that_shrinks_ends_its_job,
                jobs::bad_arguments_are_refused,
                jobs::jobs_that_were_not_waited_for_have_64_places,
                jobs::an_eventfd_and_poll_tell_of_the_end,
                jobs::a_cancelled_job_has_done_its_beginning,
                jobs::waiting_ends_after_its_time_or_a_signal,
                jobs::a_closed_file_ends_its_jobs,
                jobs::a_killed_process_ends_its_jobs,
                jobs::the_host_uses_the_space_of_a_running_job,
                jobs::jobs_of_many_spaces_and_functions_run_at_once,
                jobs::a_file_opened_for_reading_has_no_jobs,
                jobs::a_job_whose_name_cannot_be_told_is_none,
            ],
        },
        Group {
            name: "flat",
            about: "spaces without a page table",
            tests: bounded![60:
                flat::jobs_reads_and_writes_use_a_flat_space_as_any_other,
                flat::a_flat_space_is_in_one_piece_or_not_at_all,
                flat::what_cannot_be_done_to_a_flat_space_is_refused,
                flat::nothing_of_a_flat_space_is_sent_away,
                flat::a_flat_space_that_ends_ends_its_jobs_and_is_anything_afterwards,
            ],
        },
        Group {
            name: "mapped-thrashing",
            about: "pages that both sides want (reloads the module)",
            tests: bounded![110:
                thrashing::a_page_that_both_want_stays_and_is_reached,
                thrashing::pages_that_are_sent_away_and_come_back_thrash,
                thrashing::a_pin_ends_after_its_time,
                thrashing::a_page_that_is_wanted_on_the_device_is_reached_there,
                thrashing::a_pin_to_the_device_ends_after_its_time,
                thrashing::what_was_shown_is_not_when_it_is_lost,
                thrashing::who_takes_turns_waits,
                thrashing::without_it_pages_come_and_go,
            ],
        },
        Group {
            name: "trace",
            about: "the trace of a function",
            tests: bounded![60:
                trace::every_fault_and_move_of_a_job_is_in_it,
                trace::what_came_along_is_in_it,
                trace::faults_of_processes_are_in_it,
                trace::evictions_are_in_it,
                trace::what_does_not_fit_is_counted_and_its_numbers_are_left_out,
                trace::one_file_traces_a_function_at_a_time,
                trace::a_reader_waits_for_records_its_time_the_end_or_a_signal,
                trace::who_polls_hears_of_records_and_of_the_end,
                trace::unbinding_ends_it,
            ],
        },
        Group {
            name: "mapped-lost",
            about: "resets, unbinding and faults of the device under mappings (x-test=on, VFs, timeout_ms=200)",
            tests: bounded![150:
                lost::a_reset_takes_what_the_device_has_and_no_more,
                lost::a_reset_ends_the_jobs_that_run,
                lost::random_use_survives_resets,
                lost::an_unbound_function_leaves_the_host_its_pages,
                lost::unbinding_ends_jobs_and_waits,
                unbound::what_is_discarded_meanwhile_is_not_written_afterwards,
                lost::what_the_device_remembers_ends_with_its_binding,
                lost::a_page_that_cannot_be_fetched_is_sigbus_and_stays,
                lost::a_page_that_cannot_be_sent_stays_with_the_host,
                lost::scrubs_that_fail_show_nobody_else_s_bytes,
                lost::a_job_whose_completion_is_lost_ends_all_the_same,
                flat::a_reset_takes_all_of_a_flat_space,
                flat::a_flat_space_outlives_the_binding_empty,
                broken::records_that_come_twice_or_for_nobody_harm_nobody,
                broken::a_lost_message_of_faults_is_noticed,
                broken::a_reset_of_the_pf_takes_what_all_functions_have,
                broken::a_queue_that_cannot_be_reset_loses_what_the_device_has_and_no_more,
                orders::an_invalidation_that_fails_is_made_again,
                orders::a_device_that_forgets_nothing_is_given_up,
                orders::a_job_is_cancelled_although_the_order_fails,
            ],
        },
        Group {
            name: "mapped-waits",
            about: "pages that are long in coming (x-test=on, VFs, timeout_ms=20000)",
            tests: bounded![60:
                waits::a_killed_process_does_not_wait_for_its_page,
                waits::mappings_change_while_a_page_is_awaited,
                waits::mappings_change_while_a_page_is_awaited_that_was_taken_meanwhile,
                waits::a_debugger_holds_nobody_up_for_ever,
                waits::a_killed_process_does_not_wait_for_what_it_discards,
                waits::what_a_killed_process_cut_off_is_gone,
                waits::what_is_asked_for_on_its_way_is_late,
            ],
        },
        Group {
            name: "mapped-direct",
            about: "a mapping as the buffer of a disk (module brd)",
            tests: bounded![60:
                direct::direct_io_moves_data_to_and_from_a_mapping,
                direct::direct_io_and_jobs_share_pages,
            ],
        },
    ]
}
