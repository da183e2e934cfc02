// SPDX-License-Identifier: GPL-2.0

//! Spaces: reading, writing, sizes, errors.

mod buffers;
mod counters;
mod data;
mod ends;
mod faults;
mod limits;
mod many;
mod polling;
mod races;
mod sharing;
mod slow;
mod splice;
pub(crate) mod uring;
mod waiting;
mod zeros;

use crate::{bounded, tap::Group};

/// The groups of this part.
pub(crate) fn groups() -> Vec<Group> {
    vec![
        Group {
            name: "data",
            about: "what is written comes back, on all functions at once, from and to buffers of all kinds",
            tests: bounded![60:
                data::random_io_on_all_functions_at_once_matches_a_model,
                data::words_of_eight_bytes_are_never_torn,
                data::a_read_that_starts_after_a_write_ended_sees_it,
                zeros::a_space_of_all_memory_holds_nothing_of_its_former_owners,
                zeros::discarded_pages_hold_nothing_of_what_was_there,
                zeros::pages_cut_off_and_grown_again_hold_nothing_of_what_was_there,
                zeros::what_a_killed_process_wrote_is_not_seen_again,
                buffers::huge_pages_are_buffers,
                buffers::reserved_huge_pages_are_buffers,
                buffers::shared_memory_is_a_buffer,
                buffers::a_private_mapping_of_a_file_keeps_what_was_read_to_itself,
                buffers::untouched_memory_writes_zeros,
                buffers::one_page_may_be_in_a_vector_many_times,
                buffers::a_transfer_changes_nothing_beside_its_buffer,
            ],
        },
        Group {
            name: "semantics",
            about: "read, write, lseek, splice, io_uring, poll as the header describes them",
            tests: bounded![60:
                ends::reads_stop_at_the_end,
                ends::writes_stop_at_the_end,
                ends::a_space_without_size_has_only_an_end,
                ends::nothing_moves_in_calls_without_bytes,
                ends::positions_are_sought_within_the_space,
                ends::read_and_write_move_the_position,
                ends::the_mode_of_the_file_is_kept,
                ends::nowait_is_refused,
                ends::the_node_is_mapped_shared_and_not_privately,
                faults::a_buffer_that_is_not_there_holds_nobody_up,
                faults::a_buffer_that_is_nowhere_is_efault,
                faults::memory_without_rights_is_efault,
                faults::memory_that_may_only_be_read_is_no_place_to_read_to,
                faults::a_buffer_that_ends_midway_gives_a_short_count,
                faults::what_comes_before_a_bad_part_of_a_vector_moves,
                faults::a_file_that_became_shorter_is_efault,
                splice::a_space_goes_through_a_pipe_to_another,
                splice::sendfile_fills_and_empties_a_space,
                splice::a_pipe_is_teed_to_two_spaces,
                splice::pages_of_a_program_are_spliced,
                splice::splice_stops_at_the_end,
                uring::many_requests_in_flight_move_their_data,
                uring::vectors_and_registered_buffers_work,
                uring::a_nonblocking_file_works,
                uring::a_ring_polls_a_space,
                uring::a_ring_closed_with_requests_in_flight_leaves_nothing,
                sharing::a_duplicate_is_the_same_space,
                sharing::a_forked_child_shares_the_space_and_its_position,
                sharing::a_second_open_is_another_space,
                sharing::opening_by_proc_is_another_space,
                sharing::a_space_lives_until_its_last_file_is_closed,
                sharing::killed_processes_leave_nothing,
                polling::a_space_without_size_is_not_ready,
                polling::whoever_polls_learns_of_a_size,
                polling::an_edge_is_reported_once,
            ],
        },
        Group {
            name: "limits",
            about: "sizes, discarding, counters, races, leaks",
            tests: bounded![60:
                limits::sizes_are_whole_pages,
                limits::sizes_beyond_reason_are_refused,
                limits::a_space_may_be_larger_than_device_memory,
                limits::a_space_is_reserved_from_its_first_size_to_its_last,
                limits::a_space_takes_all_that_is_free_and_no_more,
                limits::spaces_share_the_memory_of_their_function,
                limits::growing_and_shrinking_keeps_what_stays,
                limits::promised_room_is_kept,
                limits::discard_refuses_what_is_no_part_of_the_space,
                limits::discarding_gives_zeros_and_keeps_the_size,
                counters::info_describes_the_function,
                counters::counters_add_up,
                counters::spaces_and_pages_are_counted,
                counters::nothing_is_lost_in_ten_rounds_of_everything,
                races::sizes_change_under_reads_and_writes,
                races::writes_end_although_their_space_becomes_smaller_for_good,
                races::pages_are_discarded_under_reads_and_writes,
                races::sizes_are_set_at_once_up_to_the_limit,
                races::buffers_lose_their_rights_under_transfers,
                races::files_that_shrink_under_transfers_hold_up_nobody,
                counters::two_thousand_opens_and_closes_cost_no_memory,
            ],
        },
        Group {
            name: "slow",
            about: "waiting for slots, on a machine with a slow link and few of them",
            tests: bounded![60:
                slow::the_machine_is_slow,
                slow::a_nonblocking_file_gets_eagain_when_no_slot_is_free,
                slow::poll_tells_when_a_slot_is_free,
                slow::a_signal_ends_the_wait_for_a_slot,
                slow::slots_are_given_in_turn,
                slow::a_kill_ends_a_large_transfer,
                slow::many_threads_share_few_slots,
                slow::io_uring_gets_all_its_data_without_slots,
                slow::io_uring_gets_all_its_data_or_eagain_on_a_nonblocking_file,
                slow::io_uring_waits_for_slots_elsewhere,
                slow::a_full_queue_holds_up_no_other_function,
                waiting::exclusive_pollers_take_nobodys_turn,
                waiting::signals_that_restart_calls_end_no_wait,
            ],
        },
        Group {
            name: "many",
            about: "64 functions at once",
            tests: bounded![90: many::sixty_four_functions_move_data_at_once],
        },
    ]
}
