//! The list of all rules, in one place: for the tests, and for the table in `docs/rules.md`.

/// Hands the list of the rules about what is stored and read to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_store_rules {
    ($callback:path, $($input:tt)*) => {
        $callback! {
            $($input)*
            append {
                versions_and_positions_count_from_one_without_holes
                each_expectation_does_what_it_says
                expectations_hold_in_a_commit_of_several_streams
                an_append_follows_the_event_that_it_was_decided_on
                a_stream_that_stands_twice_in_a_commit_is_continued
                a_check_on_a_stream_that_is_not_written_counts
                a_check_makes_no_stream
                append_at_another_version_conflicts_and_writes_nothing
                a_conflict_brings_the_events_since_if_asked
                of_ten_concurrent_appends_at_one_version_one_wins
                concurrent_appends_to_different_streams_all_win
                any_never_conflicts_however_concurrent
                a_refused_commit_leaves_its_neighbours_untouched
                an_empty_append_writes_nothing_and_says_where_the_stream_is
                a_commit_of_several_streams_is_all_or_nothing
                the_same_events_again_are_answered_like_the_first_time
                the_same_events_with_one_more_or_elsewhere_conflict
                the_same_id_with_other_content_is_refused
                the_same_events_with_rows_conflict
                a_refused_commit_leaves_no_hole_in_positions
                two_handles_see_each_others_appends_at_once_and_keep_one_order
                two_handles_that_race_lose_no_update
                resolve_of_an_attempt_that_was_not_applied_is_never_and_stays_so
                commits_that_conflict_with_each_other_are_never_both_accepted
                commits_over_the_same_streams_in_opposite_order_all_end
                appends_go_on_while_a_reader_stands_in_the_middle_of_a_read
            }
            attempts {
                an_event_proves_its_commit_whatever_became_of_its_rows
                an_attempt_that_never_ran_is_never_whoever_wrote_its_rows_and_keys
                a_commit_without_events_is_proven_by_its_name
                a_commit_that_only_looks_leaves_nothing_behind
                a_transaction_without_events_is_proven_by_its_name
                what_was_given_up_stays_never_though_its_events_are_sent_again
                an_attempt_that_was_given_up_is_refused_when_it_comes_late
                an_attempt_of_nothing_that_can_be_found_is_a_mistake
                an_outcome_that_the_store_does_not_tell_is_unknown
                a_command_whose_outcome_is_not_told_is_unknown_and_found_by_its_key
                an_outcome_that_is_not_told_is_unknown_whatever_an_interceptor_says
            }
            queues {
                many_spans_are_answered_each_in_its_order
                a_thousand_spans_hold_what_a_scan_of_each_holds
                many_spans_are_read_in_one_snapshot
                a_commit_of_rows_wakes_who_watches_their_table_and_slices
                writers_of_the_same_rows_in_opposite_orders_all_end
                a_refused_writer_names_the_row_that_it_lost
                a_queue_gives_what_is_due_until_it_is_done
            }
            conditions {
                a_condition_beyond_the_log_is_refused
                a_condition_finds_the_rare_event_among_many
                a_filter_means_any_of_its_types_and_all_of_its_tags
                a_read_that_matches_nothing_still_says_how_far_it_looked
                a_matching_event_after_the_read_refuses_the_append_and_is_named
                events_that_match_the_tags_but_not_the_types_do_not_refuse
                of_two_decisions_that_both_read_nothing_one_wins
                of_ten_appends_with_overlapping_conditions_one_wins
                of_ten_appends_with_disjoint_tags_all_win
                an_append_of_several_events_does_not_conflict_with_itself
                a_version_and_a_condition_in_one_commit_must_both_hold
                a_condition_sees_what_a_neighbour_in_the_batch_appends
                of_ten_decisions_across_streams_one_is_taken
            }
            reading {
                everything_of_an_event_comes_back_byte_for_byte
                a_stream_that_does_not_exist_is_empty
                a_stream_is_read_from_a_version_in_pages
                a_hundred_thousand_events_load_without_blocking_others
                a_filtered_read_goes_through_pages_without_a_match
                a_subscription_goes_on_with_what_any_handle_appends
                a_subscription_that_is_dropped_in_the_middle_loses_nothing
                a_wake_up_comes_with_a_commit
                reading_beyond_the_head_is_empty
                a_bookmark_goes_on_and_one_of_another_history_is_refused
                a_subscription_beyond_the_head_waits_for_its_position
                a_limit_of_nothing_reads_nothing_and_a_huge_one_is_capped
                events_are_read_by_their_positions
                a_reader_beside_ten_writers_sees_every_committed_event_once_in_order
                a_position_at_a_time_lies_before_every_event_of_that_time
                recorded_times_never_go_backwards
                an_unknown_event_fails_its_aggregate_by_name_and_no_reader_that_skips_it
                an_event_that_cannot_be_read_is_an_error_that_names_it
                unknown_fields_of_a_payload_are_ignored
                old_shapes_are_upcast_wherever_they_are_read
            }
            large {
                a_read_of_large_events_comes_in_pages_bounded_by_bytes
                a_repetition_of_large_events_is_known_as_one
                a_scan_of_large_rows_comes_in_pages_bounded_by_bytes
                who_reads_large_events_holds_two_pages_of_them
                processors_that_handle_large_events_hold_a_few_pages_of_them
                a_view_of_large_rows_keeps_and_writes_some_at_a_time
                a_parked_sequence_of_large_events_is_retried_a_page_at_a_time
            }
            snapshots {
                a_load_begins_at_the_snapshot
                a_snapshot_is_taken_each_time_a_multiple_is_passed
                a_snapshot_is_taken_on_request
                a_snapshot_that_cannot_be_used_is_ignored
                a_snapshot_of_another_history_is_ignored
                a_newer_snapshot_is_not_replaced_by_an_older_one
                a_refused_command_takes_no_snapshot
            }
            commands {
                a_command_leads_to_its_events_or_to_its_typed_refusal
                a_command_that_decides_nothing_says_where_its_aggregate_is
                interceptors_run_in_their_order_around_dispatch_and_handling
                an_interceptor_can_change_and_refuse_and_its_failure_is_the_commands
                each_decision_begins_with_the_command_as_it_was_dispatched
                a_conflict_is_retried_on_fresh_state
                conflict_retries_are_bounded
                a_refusal_is_not_retried
                an_expected_version_that_does_not_hold_is_not_retried
                ten_concurrent_commands_on_one_aggregate_all_take_effect
                create_must_exist_create_if_missing_and_ended
                the_cache_never_serves_what_the_store_contradicts
                a_command_that_usually_creates_is_decided_on_what_is_stored
                a_shutdown_refuses_new_commands_and_lets_running_ones_finish
                a_command_that_outlasts_the_grace_is_cancelled_and_writes_nothing
                a_panic_in_a_handler_fails_that_command_only
                correlation_and_causation_flow_into_events_and_on
                a_handler_knows_the_time_and_who_asks
                a_service_that_fails_is_no_refusal_and_is_not_remembered
                an_id_that_cannot_be_stored_is_refused_and_nothing_is_written
                more_events_than_the_app_allows_are_refused
                what_cannot_be_read_back_is_not_written
                what_nobody_provides_is_reported_all_at_once
                a_query_reaches_its_handler_and_none_is_a_clear_error
            }
            keys {
                the_same_key_gives_the_first_outcome_back
                a_repeated_creation_is_answered_like_the_first_one
                the_same_key_gives_the_first_refusal_back
                the_same_key_with_another_request_is_refused
                of_ten_requests_under_one_key_one_takes_effect
                a_key_of_a_command_that_decided_nothing_is_remembered_too
            }
            rows {
                rows_of_several_tables_and_events_are_written_together_or_not_at_all
                a_row_is_written_only_at_the_revision_that_was_read
                rows_are_scanned_in_the_order_of_their_keys
                revisions_count_writes_and_begin_anew_after_a_deletion
                a_row_comes_back_byte_for_byte
                thousands_of_rows_are_written_in_one_commit_or_none_is
                pages_of_a_scan_go_on_behind_the_last_key
                what_is_below_a_prefix_is_read_without_what_lies_behind
                a_name_stands_for_the_table_that_is_current
                a_write_goes_to_the_table_that_it_says
                a_reader_sees_the_old_table_or_the_new_one_whole
                events_are_written_only_with_the_inline_projections_that_are_stored
                a_commit_without_events_needs_no_inline_projections
                events_in_a_transaction_need_the_inline_projections_too
                inline_projections_are_judged_after_conditions_and_before_rows
                another_set_of_inline_projections_holds_from_its_commit_on
                the_clock_of_the_store_is_the_one_that_events_are_recorded_by
            }
            generations {
                what_is_written_in_a_generation_is_seen_in_that_one_alone
                a_switch_changes_what_queries_read_and_where_others_write
                a_generation_nobody_wrote_is_empty_after_the_switch
                a_refused_switch_changes_nothing
                a_query_beside_switches_sees_one_generation_whole
                generations_follow_each_other
                an_installation_that_is_repeated_keeps_what_is_there
                versions_of_a_projection_are_beside_each_other
                the_plain_names_are_given_from_one_version_to_another
                a_version_is_removed_whole_and_no_other_is
                a_generation_that_is_not_installed_cannot_be_written
                a_cleared_generation_is_empty_and_nothing_else_is
                a_refused_clear_changes_nothing
                the_generation_that_queries_read_is_not_uninstalled
                an_uninstalled_generation_is_gone_and_can_be_made_anew
                a_comparison_counts_what_differs_and_shows_some_of_it
                a_transaction_in_a_generation_that_is_not_committed_leaves_nothing
                a_failed_statement_leaves_nothing_and_the_next_transaction_works
                rows_of_a_generation_and_what_is_staged_are_written_together_or_not_at_all
            }
            transactions {
                rows_and_events_commit_together
                a_rollback_undoes_rows_and_events_and_leaves_no_hole
                staged_events_are_invisible_until_the_commit
                a_refused_flush_takes_the_rows_back
                commands_within_a_transaction_see_each_other_and_commit_with_it
                a_rolled_back_command_leaves_nothing_in_the_cache
                a_conflict_with_others_shows_when_the_transaction_commits
                the_transaction_of_another_store_is_refused
                a_key_within_a_transaction_is_remembered_with_it
            }
            limits {
                a_stream_id_is_checked_when_it_is_made
                ids_mean_exactly_their_bytes
                tags_and_keys_mean_exactly_their_bytes
                an_event_type_outside_its_alphabet_is_refused
                a_nil_or_repeated_event_id_is_refused
                numbers_near_their_limit_neither_wrap_nor_write
                a_payload_at_its_limit_passes_and_one_byte_more_does_not
                metadata_and_tags_over_their_limits_are_refused
                more_events_than_a_commit_may_hold_are_refused
                a_nul_in_a_payload_comes_back
                a_payload_nested_too_deep_is_refused
                an_outcome_is_stored_with_its_commit_and_comes_back
                a_repeated_key_comes_before_every_other_refusal
                what_stands_twice_in_one_commit_is_refused
                the_text_of_a_refusal_is_short
                what_is_asked_for_is_checked_like_what_is_written
                a_key_that_an_operator_asks_for_is_checked_like_what_is_written
                a_codec_is_a_name
            }
            laws {
                commits_are_accepted_and_refused_as_the_model_says
                a_snapshot_and_its_tail_fold_to_the_same_as_all_events
                generations_keep_what_the_model_says
            }
        }
    };
}

/// Adds those about what runs on that, and hands all of them to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_and_the_rest {
    ([$callback:path] $($rules:tt)*) => {
        $callback! {
            $($rules)*
            cluster {
                each_job_is_done_once_whatever_nodes_come_and_go
                a_share_that_was_claimed_is_written_by_nobody_who_had_it_before
                no_job_waits_for_others_and_none_is_early
                shares_follow_the_members
                what_cannot_be_split_is_shared_fairly_and_moves_when_a_node_leaves
                what_cannot_be_split_is_shared_fairly_between_nodes_that_run_different_things
                two_reactors_are_on_two_nodes
                a_share_that_cannot_be_read_stops_its_group_and_nothing_else
                a_processor_whose_share_cannot_be_read_says_so_on_every_node
                a_node_that_cannot_be_read_is_ignored
                a_node_of_the_version_before_counts_as_a_member
                groups_whose_names_begin_alike_are_apart
            }
            sending {
                a_command_by_name_does_what_it_does_by_type
                what_cannot_be_sent_by_name_says_why
                a_sender_outlives_its_app_and_does_not_keep_it
                a_session_sends_commands_when_it_handles_and_when_something_is_due
                a_session_keeps_its_state_with_the_checkpoint_or_not_at_all
                a_session_is_woken_at_the_time_it_asked_for
                what_is_due_goes_by_the_time_of_the_log_until_its_end
                what_is_due_and_fails_is_tried_again_and_parks_nothing
                nothing_is_due_while_a_processor_is_halted_or_paused
                a_session_that_is_always_late_is_not_asked_without_a_pause
            }
            processors {
                wait_for_returns_when_the_view_has_taken_the_position_in
                wait_for_says_so_when_the_position_is_not_reached
                a_checkpoint_passes_events_that_match_nothing
                a_restart_goes_on_without_repeating_what_was_taken_in
                rebuilt_rows_equal_those_built_step_by_step
                two_nodes_with_one_view_take_each_event_in_once
                a_reactor_begins_with_the_events_after_its_first_activation
                a_reactor_that_fails_or_panics_is_tried_again_and_keeps_the_order
                a_view_that_fails_stops_where_it_is_and_says_so
                two_projections_with_one_name_do_not_start
                processors_end_with_the_app_that_is_dropped
                a_view_equals_the_fold_of_the_log
            }
            reactors {
                new_events_have_as_much_time_as_retries_in_vain
                a_reactor_that_nobody_runs_is_forgotten
                a_reactor_that_was_forgotten_while_nobody_saw_its_node_begins_again
                streams_are_acted_on_at_the_same_time_and_each_in_order
                nodes_share_the_streams_of_a_reactor_and_keep_their_order
                a_call_that_fails_parks_its_stream_and_repeats_no_other
                a_receiver_that_is_away_holds_no_retry_of_others_up
                a_retry_that_waits_is_not_in_the_way_of_a_discard
                a_batch_of_calls_is_one_commit
                a_shutdown_waits_for_the_calls_in_flight_and_begins_none
                no_call_begins_once_the_lease_may_have_run_out
                a_crash_repeats_no_more_than_a_batch
                a_checkpoint_that_cannot_be_written_repeats_no_call
                a_range_that_stands_still_is_ill_though_others_go_on
            }
            rebuilds {
                an_online_rebuild_is_read_from_the_switch_on
                a_rebuild_with_other_options_than_the_one_under_way_is_refused
                queries_go_back_to_a_build_that_stands_where_theirs_does
                readers_beside_a_rebuild_see_no_older_state
                a_rebuild_goes_on_after_a_restart_or_is_given_up
                a_rebuild_is_watched_through_an_outage
                what_helps_a_rebuild_that_is_halted_is_told_on_every_node
                a_lenient_rebuild_parks_what_fails
                what_cannot_be_switched_to_is_refused
                a_tool_without_the_code_rebuilds_a_view
                a_tool_without_the_code_goes_on_with_tables_and_makes_none
                a_tool_without_the_code_says_what_a_rebuild_waits_for
                rebuilt_online_equals_built_step_by_step
                rows_of_some_keys_are_built_anew_while_others_go_on
                a_row_that_fails_keeps_no_other_from_being_rebuilt
                what_was_asked_of_a_build_goes_with_it
                the_row_of_a_key_that_was_parked_since_is_not_rebuilt
                a_report_beside_writers_compares_both_builds_at_one_position
            }
            fences {
                what_a_removed_version_writes_late_is_refused_also_once_it_is_back
                no_number_of_a_build_is_given_twice
                a_reset_is_refused_while_queries_are_switched
                a_projection_named_like_the_framework_harms_nothing
            }
            portions {
                a_build_goes_in_portions_and_another_node_goes_on_with_it
                a_version_goes_in_portions_and_none_of_them_reaches_the_one_that_comes_back
                a_reset_that_was_cut_short_is_gone_on_with
                a_reset_to_a_place_that_was_cut_short_is_gone_on_with
            }
            queries {
                rows_that_change_in_place_are_seen_by_whoever_watches
                an_inline_view_is_watched_while_a_processor_stands_still
                a_watched_query_answers_at_once_and_after_each_change
                the_last_item_of_a_watched_query_is_what_is_true_now
                a_slow_watcher_gets_the_newest_answer_and_no_backlog
                an_answer_that_did_not_change_is_not_sent_again
                what_changes_while_a_watched_query_is_answered_is_not_lost
                a_watched_query_ends_with_its_app
                a_watched_query_sees_what_other_nodes_take_in
                a_watched_query_that_fails_says_so_and_goes_on
                a_gathered_question_is_answered_by_all_in_their_order
                who_fails_panics_or_hangs_spoils_only_its_own_answer
                a_question_that_nobody_answers_has_no_answers
                thousands_of_rows_are_streamed_in_the_order_of_their_keys
                whoever_takes_ten_rows_reads_one_page
                a_query_may_answer_with_a_stream_that_outlives_it
                a_stream_of_rows_keeps_to_the_generation_that_it_began_in
                a_stream_whose_generation_is_taken_away_says_so
            }
            slices {
                each_key_is_folded_once_and_in_order_while_nodes_come_and_go
                a_newcomer_gets_its_share_and_what_it_had_is_taken_over
                ranges_split_for_more_workers_and_merge_for_fewer
                a_node_that_is_cut_off_is_replaced_and_what_it_writes_late_is_refused
                a_node_that_was_replaced_gives_back_nothing_of_its_successors
                what_cannot_be_split_has_one_owner_at_a_time
                a_projection_that_goes_by_streams_is_worked_on_in_parallel
                what_goes_by_streams_no_more_is_handled_in_one_order
                parts_that_are_to_be_one_become_one_whatever_they_were_halted_at
                the_order_of_each_key_holds_under_parallel_work
                positions_of_ranges_never_pass_what_is_folded
            }
            blame {
                a_store_that_takes_no_writes_blames_no_event
                a_view_far_behind_says_for_how_long_the_store_takes_no_writes
                what_keeps_handlers_from_being_called_blames_no_event
                what_looks_like_the_store_for_long_is_the_events
                after_an_outage_the_store_is_suspected_afresh
                after_an_outage_a_rebuild_is_suspected_afresh
                a_partner_that_is_away_clears_no_suspicion_of_another_key
                what_was_suspected_holds_for_the_others_of_a_round
                a_row_that_cannot_be_read_is_between_it_and_its_key
                a_row_that_cannot_be_read_is_not_rebuilt_and_stops_no_other
                without_retries_only_what_fails_is_blamed
                one_event_at_a_time_is_blamed_as_many_are
                an_event_is_blamed_alone_also_where_others_were_suspected_in_vain
                a_position_is_not_reached_while_something_before_it_is_parked
                who_wrote_nothing_hears_nothing_of_other_keys
            }
            deploys {
                the_newer_of_two_programs_works_and_the_older_stands_by
                a_rebuild_is_made_by_one_program
                a_switch_meets_a_start_that_takes_the_build_over_that_is_read
                what_a_newer_program_passes_is_not_said_to_be_there
                a_program_that_handles_more_than_was_handled_says_so
                an_event_of_a_newer_program_is_left_to_it
                what_was_handled_before_a_rollback_is_not_missed_after_it
                a_rebuild_whose_program_has_gone_begins_again
                a_rebuild_of_an_older_program_is_not_switched_to
                a_start_that_is_refused_takes_nothing_over
                a_program_that_cannot_go_on_with_a_build_says_why_for_as_long_as_that_is_so
                an_outage_longer_than_a_lease_lets_nothing_be_taken_back
                an_effect_that_is_under_way_is_not_repeated_by_a_deploy
                an_operator_of_an_old_program_gets_an_answer
                a_node_leaves_what_it_does_not_know_to_one_next_to_it
                an_event_of_an_unknown_type_is_left_to_a_newer_program
            }
            unknown {
                an_unknown_event_is_left_to_a_newer_program_whatever_its_handler_says
                a_failure_of_its_own_is_the_events_whatever_else_its_handler_has_met
                what_a_handler_cannot_load_is_left_to_a_newer_program_whatever_it_says
                who_waits_for_one_event_may_know_the_one_that_another_waits_for
                nodes_none_of_which_knows_an_event_share_the_others_again
                nodes_that_stood_by_share_the_slices_once_the_newer_program_has_gone
                an_unknown_event_that_was_discarded_is_in_the_way_of_no_rebuild
            }
            versions {
                versions_live_next_to_each_other
                a_node_that_only_looks_on_changes_nothing
                a_node_that_looks_on_is_not_ready_for_a_version_that_has_gone
                a_new_version_is_ready_once_it_has_caught_up
                a_new_version_is_watched_and_takes_the_names_of_the_older_one
                the_plain_names_follow_the_newest_version_that_runs
                a_version_that_nobody_runs_is_dropped
                a_version_goes_by_itself_when_no_node_has_run_it_for_long
                a_version_that_is_taken_away_from_its_node_is_built_again
                a_projection_whose_program_handles_more_is_rebuilt_by_itself
                whoever_waits_for_a_projection_that_is_rebuilt_by_itself_sees_all_of_it
                a_node_that_looks_on_is_not_ready_for_what_an_older_program_makes
                what_was_missed_is_left_out_if_that_was_chosen
            }
            waiting {
                keys_that_wait_hold_up_no_other_that_is_asked
                what_waits_is_looked_up_again_once_something_is_asked
                those_who_wait_have_nothing_looked_up_again_and_again
                a_rebuild_that_waits_has_no_more_than_half_of_the_time
                a_key_between_many_that_wait_is_rebuilt_in_its_turn
                a_rebuild_suspects_each_event_for_itself
                what_is_asked_is_tried_some_times_before_it_is_blamed
                no_key_of_a_retry_is_blamed_at_its_first_try
                others_that_go_through_clear_no_suspicion_of_a_retry
            }
            effects {
                a_retry_that_cannot_be_stored_repeats_no_call
                a_retry_that_fails_in_the_middle_repeats_no_call
                what_was_done_beside_an_event_of_a_newer_program_is_not_repeated_by_it
                what_no_checkpoint_covers_is_not_repeated_by_a_newer_program
                a_commit_that_is_refused_after_a_long_outage_repeats_no_call
            }
            missed {
                an_older_program_passes_nothing_that_the_newer_one_acts_on
                a_reactor_says_what_an_older_program_has_passed_without_it
                a_renamed_reactor_says_what_an_older_program_has_passed_without_it
                a_start_that_is_refused_renames_nothing
                a_renamed_reactor_is_judged_until_it_has_its_name
            }
            slow {
                a_slow_commit_makes_no_transaction_smaller
                a_transaction_that_is_slow_to_open_is_no_smaller
                a_slow_commit_makes_no_part_of_a_retry_smaller
            }
            discards {
                what_is_left_out_while_a_rebuild_is_under_way_stays_left_out_of_it
                what_is_discarded_behind_a_rebuild_is_left_out_of_it
                what_is_discarded_while_queries_are_switched_is_left_out
                what_was_discarded_behind_an_event_that_a_rebuild_parks_is_left_out
                what_is_discarded_before_an_event_that_a_rebuild_has_parked_is_left_out
                what_a_rebuild_has_parked_goes_on_once_its_first_event_is_discarded
                what_a_rebuild_has_handled_of_what_it_had_parked_is_left_out
                what_is_discarded_undecoded_is_not_parked_in_a_rebuild_under_keys_that_it_has
                what_is_discarded_undecoded_while_a_rebuild_parks_it_is_left_out
                what_a_rebuild_leaves_out_it_leaves_out_though_its_row_is_damaged
                what_a_rebuild_has_passed_it_leaves_out_though_its_row_is_damaged
                what_is_discarded_behind_one_range_of_a_rebuild_and_before_another_is_left_out_of_both
                what_is_skipped_behind_one_range_of_a_rebuild_and_before_another_begins_nothing_again
                what_is_skipped_behind_a_rebuild_that_has_handled_it_stays_in_it
                a_rebuild_reads_again_only_what_was_discarded_since
                what_ranges_of_a_rebuild_are_asked_of_many_events_is_found_in_few_reads
                what_is_asked_of_a_build_that_is_no_longer_read_is_not_said_to_be_done
                a_switch_says_what_it_waits_for
                what_was_discarded_and_is_not_handled_any_more_is_in_the_way_of_no_rebuild
            }
            backfills {
                a_rebuild_by_itself_that_is_halted_holds_nothing_up
                what_a_build_lacks_is_not_forgotten_by_the_next_program
                what_a_build_lacks_is_known_after_a_rollback
                what_a_build_lacks_is_known_after_a_fix_is_rolled_back
                a_start_that_is_refused_changes_nothing
            }
            plain_names {
                an_inline_projection_of_another_version_writes_tables_of_its_own
                no_switch_takes_the_plain_names_from_an_inline_projection
                plain_names_that_cannot_be_given_are_tried_again_and_hold_up_nothing
                a_newer_version_goes_by_itself_after_a_rollback
                a_version_whose_names_cannot_be_taken_stays_and_says_why
                a_version_that_cannot_go_keeps_no_other_from_going
                a_version_gives_its_names_away_as_it_goes
                a_version_that_nobody_runs_goes_by_itself_with_its_names
            }
            readiness {
                an_app_becomes_ready_while_events_keep_coming
            }
            together {
                a_node_that_looked_before_a_rebuild_began_shows_what_it_does
                two_programs_rebuild_and_switch_at_the_same_time
            }
            rekeyed {
                a_view_whose_keys_change_is_rebuilt_by_itself
                a_view_whose_keys_change_and_that_handles_more_is_rebuilt_by_itself
                rows_of_two_keys_are_never_mixed_while_it_is_rebuilt
                a_view_whose_keys_change_does_not_start_if_that_was_chosen
                a_view_whose_keys_change_goes_on_if_that_was_chosen
                what_an_older_program_rebuilds_is_left_once_the_newer_one_is_back
                a_rebuild_that_an_older_program_is_asked_for_knows_the_keys_of_the_newer_one
                what_was_discarded_under_other_keys_stays_left_out_of_a_rebuild
                what_is_discarded_under_other_keys_behind_a_rebuild_is_left_out_of_it
                a_sequence_whose_key_its_events_do_not_have_any_more_is_not_emptied_by_a_retry
                a_sequence_of_events_that_are_not_handled_any_more_is_not_emptied_by_a_retry
            }
            renames {
                a_renamed_reactor_continues_where_it_was
                a_renamed_reactor_continues_beside_a_row_that_cannot_be_read
                a_renamed_reactor_waits_until_the_rows_of_before_can_be_read
                a_reactor_whose_former_name_is_unknown_begins_at_the_head
                a_rename_in_a_deploy_repeats_no_effect
                a_rename_that_is_rolled_back_repeats_no_effect
                a_reactor_that_is_renamed_again_after_a_rollback_is_told_its_name
                what_a_program_is_about_to_take_back_is_not_forgotten
                what_an_operator_asked_of_a_reactor_goes_with_its_name
                a_rename_of_many_rows_that_is_cut_short_is_taken_back_or_gone_on_with
                a_request_that_both_names_have_holds_no_rename_up
                what_is_asked_of_a_reactor_by_its_former_name_is_done
                a_shutdown_waits_for_no_rename
            }
            vanishing {
                a_row_that_its_handler_deletes_is_gone
                rows_that_are_gone_are_the_same_after_a_rebuild
                an_inline_row_that_goes_and_comes_back_is_no_row_of_before
            }
            parking {
                a_failing_key_is_parked_with_what_comes_after_and_others_go_on
                a_retry_handles_the_sequence_in_order_and_empties_it
                a_failure_in_the_middle_of_a_retry_keeps_the_rest_in_order
                events_that_arrive_during_a_retry_are_handled_once_and_after_it
                of_two_retries_at_once_one_works_and_the_other_says_so
                what_is_parked_can_be_read_and_long_errors_are_cut
                a_processor_stops_when_no_more_sequences_fit_and_drops_nothing
                what_fits_is_parked_also_where_other_events_lie_between
                a_processor_stops_when_a_sequence_is_full_and_drops_nothing
                a_discarded_sequence_needs_a_reason_and_is_recorded
                what_was_discarded_stays_left_out_of_rebuilds
                a_sequence_of_thousands_of_events_is_kept_and_retried_whole
                a_retry_of_thousands_of_events_is_asked_for_in_few_reads
                thousands_of_parked_events_are_listed_in_a_few_reads
                a_statement_that_fails_in_a_handler_is_a_failure_like_any_other
                payloads_that_cannot_be_decoded_are_parked_with_their_bytes
                what_cannot_be_decoded_is_parked_behind_what_fails_before_it
                an_event_of_two_keys_is_taken_in_once_by_the_one_that_does_not_fail
                an_event_that_has_a_parked_key_twice_waits_once
                a_key_that_cannot_be_stored_parks_its_event_and_no_more
                a_poisoned_event_in_the_middle_of_a_long_page_takes_nothing_with_it
                a_row_that_cannot_be_written_parks_its_own_key
                a_projection_can_skip_what_fails_for_good
                a_projection_can_stop_at_what_fails_until_it_is_resumed
                what_is_parked_survives_a_restart_and_a_takeover
                a_node_that_does_not_work_on_a_key_can_ask_for_its_retry
                waiting_for_a_parked_key_says_so_and_for_others_returns
                what_was_taken_in_before_its_key_was_parked_is_there
                a_reactor_parks_what_fails_and_acts_on_it_when_retried
                a_resume_that_comes_while_a_halted_worker_looks_is_not_lost
                a_request_is_found_by_an_owner_that_hears_nothing
                a_request_that_cannot_be_read_stops_nothing_but_itself
                a_parked_sequence_that_cannot_be_read_hides_no_other
                a_parked_sequence_that_cannot_be_read_can_be_discarded
                a_thousand_requests_are_written_in_a_few_commits
            }
            undecoded {
                what_can_be_decoded_later_is_handled_under_every_key_it_has
                what_can_be_decoded_later_reaches_slices_that_have_changed_hands
                a_retry_reads_some_of_what_cannot_be_decoded_at_a_time
                what_cannot_be_decoded_is_left_by_a_program_that_does_not_handle_it
                what_a_program_discards_that_does_not_handle_it_is_left_out_for_every_key
                a_late_event_that_is_blamed_for_want_of_anything_else_says_so
                a_position_is_not_reached_while_an_event_of_before_waits_behind_others
                what_waits_behind_others_stays_before_what_a_reset_brings_again
                a_rebuilt_row_keeps_what_other_slices_have_not_taken_in
                a_row_is_not_rebuilt_without_what_cannot_be_decoded_any_more
                a_late_event_whose_row_cannot_be_written_is_parked_and_stops_nothing
                what_can_be_decoded_later_parks_no_more_than_fits
                a_retry_that_waits_for_what_does_not_fit_holds_up_no_other
                a_late_event_whose_partner_is_away_holds_up_no_other
                a_halted_range_does_not_look_at_a_late_event_again_and_again
                a_late_event_that_was_taken_in_unheard_is_waited_for_no_longer
                rows_whose_partner_is_away_are_rebuilt_later_and_hold_up_no_other
                what_was_left_out_undecoded_stays_left_out_for_every_key
                what_is_not_in_the_log_any_more_is_left_out_with_a_record
                what_was_left_out_undecoded_stays_left_out_though_its_row_is_damaged
                what_was_skipped_undecoded_stays_skipped_for_every_key
            }
            late {
                a_late_event_that_meets_the_end_of_a_lease_is_acted_on_under_the_next
            }
            poisoned {
                other_keys_go_on_between_the_parts_of_a_retry
                a_retry_that_is_interrupted_goes_on_where_it_was
                hundreds_of_poisoned_keys_are_parked_in_a_few_commits
                as_many_poisoned_keys_as_fit_are_parked_in_a_few_commits
                keys_that_fail_as_the_store_does_are_found_out_soon
                sequences_of_a_part_are_looked_up_together
            }
            damaged {
                an_unreadable_row_stops_what_it_belongs_to_and_nothing_else
                a_version_whose_place_in_the_log_was_deleted_says_so
                a_checkpoint_beyond_the_log_is_named_and_passes_nothing_over
            }
            operating {
                a_pause_holds_on_every_node_and_over_restarts
                a_halt_is_shown_on_every_node_and_resumed_from_any
                a_reset_is_refused_while_others_work_and_works_from_any_node_once_paused
                a_reset_right_after_a_pause_waits_for_what_is_handled
                what_is_parked_is_asked_for_on_any_node_one_by_one_or_by_what_it_is
                a_request_of_a_node_that_died_is_done_after_a_restart
                whoever_asks_in_vain_is_told_what_is_in_the_way
                what_is_asked_of_a_processor_that_is_reset_is_not_said_to_be_done
                rows_of_a_processor_that_is_reset_are_not_said_to_be_rebuilt
                what_was_asked_before_a_reset_to_a_place_is_not_done_after_it
                two_operators_at_once_do_no_harm
                what_nobody_works_on_is_ill
                a_build_that_has_just_begun_is_not_ill
                a_node_that_cannot_say_that_it_is_alive_is_ill
                a_request_that_comes_too_late_makes_no_rows_run_ahead
            }
            replays {
                a_shutdown_waits_for_no_reset
                a_reset_to_the_start_builds_everything_anew
                a_reset_to_a_place_takes_in_what_lies_behind_it_again
                what_would_act_twice_is_not_set_to_a_place
                a_reset_is_refused_while_another_node_works_and_changes_nothing
                a_reset_takes_back_what_was_set_aside_behind_its_place
                a_handler_knows_that_it_is_called_in_a_replay
                is_replay_says_the_same_in_a_task_that_the_handler_starts
                a_running_processor_stores_that_it_has_passed_what_it_does_not_want
                a_store_that_was_away_is_met_again_and_nothing_is_done_twice
                any_history_that_is_built_again_gives_the_same_rows
                who_would_rather_have_old_rows_than_wait_is_told_that_they_are_old
                who_waits_does_not_ask_the_store_again_and_again
                a_shutdown_can_be_repeated_and_the_next_node_need_not_wait
                a_shutdown_lets_what_runs_finish_and_begins_nothing
                many_views_read_each_page_of_the_log_once
                what_is_paused_is_given_back_once_the_store_answers
            }
            inline {
                a_row_is_there_with_the_command_that_led_to_it
                commands_in_one_transaction_write_their_rows_with_it
                what_is_refused_leaves_no_row
                an_inline_handler_that_fails_fails_the_command
                concurrent_commands_on_one_row_and_on_many_land_once
                the_same_events_again_are_taken_in_once
                inline_async_and_live_give_the_same_answers
                handlers_see_events_where_they_will_be
                turning_inline_on_beside_writers_loses_and_doubles_nothing
                two_apps_that_turn_it_on_at_once_do_it_once
                a_retired_inline_view_goes_on_by_a_processor
                another_version_of_an_inline_view_takes_its_place
                what_a_processor_works_on_or_has_parked_does_not_become_inline
                many_parked_sequences_are_not_all_read_by_a_start
                what_is_inline_or_live_is_never_waited_for
                an_aggregate_loads_the_same_beside_inline_projections
            }
            staging {
                a_projection_that_would_send_a_command_parks_its_event
                an_inline_projection_that_would_send_a_command_fails_the_one_it_is_called_for
                a_command_that_is_given_up_while_it_is_projected_spoils_its_transaction
            }
            inline_code {
                an_inline_view_that_handles_more_is_retired_rebuilt_and_inline_again
                a_view_that_has_missed_events_says_how_it_becomes_inline
                an_inline_view_that_handles_more_goes_on_if_that_was_chosen
                an_inline_view_whose_keys_change_does_not_start
                an_older_program_commits_nothing_where_a_newer_one_handles_more_inline
                programs_that_handle_the_same_inline_write_next_to_each_other
                an_older_program_does_not_start_beside_one_that_is_like_the_newest
            }
            starts {
                a_view_is_not_retired_for_a_processor_that_may_not_continue
                a_start_that_may_not_make_a_view_inline_takes_nothing_over
                a_program_that_is_lost_in_its_start_is_believed_in_for_a_lease
                an_older_program_takes_nothing_back_while_a_newer_one_starts
                a_start_that_is_refused_late_gives_back_what_it_has_taken_over
                an_inline_view_is_left_to_the_program_of_before_by_a_start_that_is_refused_late
                a_start_makes_no_tables_of_a_build_that_is_just_removed
                a_start_whose_tables_cannot_be_made_changes_nothing
                a_projection_does_not_become_a_view_of_its_version
                a_version_whose_removal_was_cut_short_begins_with_other_tables
                two_programs_that_make_other_views_inline_do_not_shut_each_other_out
                a_program_that_handles_all_events_takes_an_inline_view_over_while_others_write
            }
        }
    };
}

/// Hands the list of all rules to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_rules {
    ($callback:path, $($input:tt)*) => {
        $crate::__conformance_store_rules! { $crate::__conformance_and_the_rest, [$callback] $($input)* }
    };
}

/// Hands the list of the rules about what an operator does to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_operated_rules {
    ($callback:path, $($input:tt)*) => {
        $callback! {
            $($input)*
            redacting {
                a_payload_is_replaced_and_nothing_else_and_the_snapshot_goes
                what_is_not_there_or_could_not_be_appended_is_refused
                what_is_set_aside_is_not_redacted_unless_it_is_meant
                a_redaction_reaches_what_other_programs_keep
                a_state_of_before_a_redaction_is_neither_used_nor_stored
            }
            verifying {
                each_thing_that_is_wrong_is_named
                what_cannot_be_read_hides_nothing_else
                what_was_verified_before_is_left_out
            }
            adopting {
                who_lives_through_a_restore_goes_on_from_what_is_there
                a_clone_is_another_store
            }
        }
    };
}

/// Declares a test for each rule of the contract: `es_core::conformance!(Memory)`.
///
/// The first argument is an expression that makes a [`Subject`](crate::testing::conformance::Subject),
/// evaluated once per test. The second, if there is one, is the attribute of the tests, `tokio::test`
/// unless something else is asked for, such as `tokio::test(start_paused = true)`.
///
/// See [`conformance`](crate::testing::conformance) for a whole example.
#[macro_export]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance!($subject, tokio::test);
    };
    ($subject:expr, $attribute:meta) => {
        $crate::__conformance_rules!($crate::__conformance_tests, [$subject][$attribute]);
    };
}

/// The same for the rules about what is stored and read alone: for a store that is tested already, in another shape.
#[macro_export]
macro_rules! store_conformance {
    ($subject:expr) => {
        $crate::__conformance_store_rules!($crate::__conformance_tests, [$subject][tokio::test]);
    };
}

/// The same for what an operator does, of a subject that is [`Operated`](crate::testing::conformance::Operated).
#[macro_export]
macro_rules! operated_conformance {
    ($subject:expr) => {
        $crate::__conformance_operated_rules!($crate::__conformance_tests, [$subject][tokio::test]);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([$subject:expr] [$attribute:meta] $($suite:ident { $($rule:ident)* })*) => { $(
        mod $suite {
            #[allow(unused_imports, reason = "the subject may be a path")]
            use super::*;

            $(#[$attribute]
            async fn $rule() {
                $crate::testing::conformance::$suite::$rule($subject).await;
            })*
        }
    )* };
}

macro_rules! names {
    ([$(#[$doc:meta])* $name:ident] $($suite:ident { $($rule:ident)* })*) => {
        $(#[$doc])*
        pub const $name: &[&str] = &[$($(concat!(stringify!($suite), "::", stringify!($rule))),*),*];
    };
}

__conformance_rules!(
    names,
    [
        /// The paths of all tests that [`conformance!`](crate::conformance) declares.
        RULES
    ]
);
__conformance_operated_rules!(
    names,
    [
        /// The paths of all tests that [`operated_conformance!`](crate::operated_conformance) declares.
        OPERATED
    ]
);
