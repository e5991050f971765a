//! The list of all rules, in one place: for the tests, and for the table in `docs/rules.md`.

/// Hands the list of all rules to a macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_rules {
    ($callback:path, $($input:tt)*) => {
        $callback! {
            $($input)*
            append {
                versions_and_positions_count_from_one_without_holes
                each_expectation_does_what_it_says
                expectations_hold_in_a_commit_of_several_streams
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
                a_refused_commit_leaves_no_hole_in_positions
                two_handles_see_each_others_appends_at_once_and_keep_one_order
                two_handles_that_race_lose_no_update
                resolve_of_an_attempt_that_was_not_applied_is_never_and_stays_so
                commits_that_conflict_with_each_other_are_never_both_accepted
                commits_over_the_same_streams_in_opposite_order_all_end
                appends_go_on_while_a_reader_stands_in_the_middle_of_a_read
            }
            conditions {
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
                a_reader_beside_ten_writers_sees_every_committed_event_once_in_order
                a_position_at_a_time_lies_before_every_event_of_that_time
                recorded_times_never_go_backwards
                an_unknown_event_fails_its_aggregate_by_name_and_no_reader_that_skips_it
                an_event_that_cannot_be_read_is_an_error_that_names_it
                unknown_fields_of_a_payload_are_ignored
                old_shapes_are_upcast_wherever_they_are_read
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
                a_conflict_is_retried_on_fresh_state
                conflict_retries_are_bounded
                a_refusal_is_not_retried
                an_expected_version_that_does_not_hold_is_not_retried
                ten_concurrent_commands_on_one_aggregate_all_take_effect
                create_must_exist_create_if_missing_and_ended
                the_cache_never_serves_what_the_store_contradicts
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
                a_name_stands_for_the_table_that_is_current
                a_write_goes_to_the_table_that_it_says
                a_reader_sees_the_old_table_or_the_new_one_whole
                an_attempt_whose_rows_are_not_all_there_was_never_applied
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
                the_first_generation_of_another_version_takes_the_place_of_all
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
            rebuilds {
                an_online_rebuild_is_read_from_the_switch_on
                readers_beside_a_rebuild_see_no_older_state
                a_rebuild_goes_on_after_a_restart_or_is_given_up
                a_lenient_rebuild_parks_what_fails
                what_cannot_be_switched_to_is_refused
                rebuilt_online_equals_built_step_by_step
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
            }
            laws {
                commits_are_accepted_and_refused_as_the_model_says
                a_snapshot_and_its_tail_fold_to_the_same_as_all_events
                generations_keep_what_the_model_says
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
    ($($suite:ident { $($rule:ident)* })*) => {
        /// The paths of all tests that [`conformance!`](crate::conformance) declares.
        pub const RULES: &[&str] = &[$($(concat!(stringify!($suite), "::", stringify!($rule))),*),*];
    };
}

__conformance_rules!(names,);
