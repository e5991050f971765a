//! The list of all rules of processes and inboxes, in one place: for the tests, and for the table in `docs/rules.md`.

macro_rules! rules {
    ($callback:ident) => {
        $callback! {
            lives {
                a_start_that_comes_twice_makes_one_instance
                a_reply_that_comes_first_is_not_lost
                an_instance_does_not_begin_without_what_has_waited_and_is_gone
                more_than_one_read_of_events_may_wait_for_instances
                an_ended_instance_is_not_revived
                one_that_may_begin_again_does_so_behind_its_end
                one_that_is_parked_may_begin_again_behind_its_end
                one_that_ends_by_a_skip_begins_again
                a_tombstone_is_rebuilt_from_what_it_took_in
                an_instance_that_ends_as_it_starts_leaves_its_tombstone
                a_failing_handler_parks_its_instance_and_no_other
                what_has_waited_for_many_is_taken_in_by_turns
                a_version_is_forgotten_with_its_last_instance
                instances_keep_their_version
            }
            forgotten {
                an_instance_is_forgotten_some_time_after_its_end
                an_incarnation_that_has_ended_is_forgotten_and_the_next_one_is_not
                an_instance_of_whose_key_events_are_set_aside_is_not_forgotten
                of_the_clocks_of_store_and_app_the_one_that_is_behind_forgets_instances
            }
            found {
                an_instance_is_found_by_what_it_is_associated_with_and_not_after
                an_event_by_a_second_key_is_not_lost
                an_instance_that_an_event_names_twice_takes_it_once
                an_instance_that_is_found_twice_takes_it_once
                an_event_that_one_of_two_versions_understands_is_taken_in_once
                an_event_that_names_nobody_at_first_reaches_whom_it_finds_later
                an_event_whose_association_cannot_be_read_is_not_lost
                two_hundred_instances_over_shared_associations_agree
            }
            order {
                a_reply_never_overtakes_the_state_that_expects_it
                refusals_come_back_in_order
                a_refusal_comes_back_with_its_type
            }
            timers {
                a_timer_fires_once_unless_it_was_cleared
                a_timer_that_is_cleared_as_it_fires_does_one_of_both
                a_timer_does_not_overtake_what_was_recorded_before_it
                a_timer_does_not_overtake_events_that_are_set_aside
                timers_of_one_slice_fire_however_many
            }
            operators {
                what_is_asked_while_a_timer_is_overdue_is_done
                what_has_waited_sets_due_timers_anew
                a_command_that_is_retried_twice_at_once_is_sent
                an_instance_with_a_command_that_is_held_stays_parked
                an_input_whose_event_is_gone_parks_its_instance
                what_cannot_be_read_is_shown_as_that
                what_cannot_be_done_yet_is_left_and_holds_up_no_other
                an_end_takes_the_place_of_an_input_that_fails_meanwhile
                an_answer_waits_for_its_instance_to_be_repaired
            }
            schedule {
                what_is_scheduled_is_sent_once_its_time_has_come
                what_is_called_off_is_not_sent
                what_is_scheduled_within_a_transaction_shares_its_outcome
                what_comes_too_late_for_its_aggregate_keeps_no_name
                a_firing_that_fails_is_tried_again_and_then_parked
                a_firing_that_an_interceptor_refuses_is_sent_by_a_retry
                a_command_that_is_given_up_holds_up_nothing_more
            }
            commits {
                state_commands_timers_and_checkpoint_are_one_commit
                a_command_acts_once_whoever_sends_it
                a_rebuild_of_its_inputs_is_byte_equal_and_sends_nothing
            }
            programs {
                commands_that_newer_inline_views_refuse_are_left_to_the_newer_program
                a_command_in_words_of_a_newer_program_waits_for_it
                a_reply_that_waits_is_not_lost_to_a_program_that_cannot_read_it
                what_has_waited_is_not_lost_to_a_program_that_cannot_read_it
            }
            outages {
                a_command_is_blamed_only_while_the_store_takes_writes
            }
            sharing {
                nodes_that_come_and_go_lose_no_instance_and_act_once
            }
            relays {
                messages_of_a_key_are_sent_in_order_and_those_of_many_keys_at_the_same_time
                a_crash_before_the_checkpoint_repeats_messages_as_they_were_and_loses_none
                a_receiver_that_is_away_for_long_parks_nothing_and_then_gets_all
                a_message_that_is_refused_parks_its_key_and_no_other
                what_cannot_be_a_message_parks_its_key_and_says_why
                a_key_that_cannot_be_stored_parks_its_stream_and_no_other
                what_is_sent_late_is_not_parked_because_the_node_is_stopped
                a_mark_that_cannot_be_read_parks_its_key_and_no_other
                nodes_that_come_and_go_share_the_keys_and_leave_no_gap
                what_is_behind_a_message_comes_again_as_it_was_sent
                a_topic_goes_out_as_it_was_published
                a_topic_goes_to_any_number_of_receivers
            }
            rekeyed {
                a_relay_that_goes_by_other_keys_starts_once_everything_was_sent
                a_relay_that_goes_by_other_keys_goes_on_from_here_if_that_was_chosen
            }
            behind {
                what_only_a_newer_program_knows_is_not_left_out_in_silence
                a_rare_key_is_searched_for_in_parts
                what_was_taken_and_then_refused_can_be_asked_behind
            }
            links {
                a_lane_that_takes_nothing_more_holds_up_no_other_key
                a_lane_that_is_for_a_newer_program_holds_up_no_other_key
            }
            bad_input {
                a_state_that_cannot_be_read_holds_up_no_other_instance
                a_row_that_cannot_be_read_holds_up_no_other_instance
                timers_that_cannot_be_read_hold_up_none_behind_them
                what_is_over_a_limit_parks_its_instance_and_no_other
                timers_go_to_the_end_of_time
                a_thousand_commands_of_many_instances_are_sent
                odd_keys_name_instances_of_their_own
                a_key_that_cannot_be_stored_holds_up_no_other
                what_comes_too_early_in_masses_keeps_no_instance_from_its_start
            }
            runs {
                steps_run_in_order_and_each_once
                what_has_run_is_undone_when_a_step_refuses
                a_call_whose_answer_is_lost_acts_once
                what_may_have_run_is_not_left_behind
                a_refusal_of_a_repetition_is_not_taken_for_clean
                a_step_that_succeeds_after_another_refused_is_undone
                an_undo_that_fails_for_ever_waits_for_a_person_and_others_go_on
                a_deadline_undoes_what_is_not_decided_and_nothing_else
                a_key_stands_for_one_run
                runs_of_a_node_that_is_gone_go_on_elsewhere_and_act_once
                a_run_that_a_request_has_woken_is_found_if_its_node_is_lost
                a_node_that_ends_leaves_its_runs_to_the_next
                a_run_keeps_its_version_and_is_left_to_who_has_it
                a_run_of_an_earlier_definition_is_shown_as_any
                a_run_that_cannot_be_read_holds_up_no_other
                a_panic_in_a_step_is_a_failure_of_it
                what_an_operator_asks_is_done_once_and_noted
                a_local_step_whose_output_cannot_be_read_has_failed
            }
            staged {
                what_staged_steps_leave_and_their_records_are_one_commit
                a_refused_commit_runs_staged_steps_again_and_they_act_once
                what_staged_steps_have_not_committed_goes_with_their_node
                a_cancel_between_staged_steps_undoes_those_that_are_written
                staged_steps_are_undone_from_the_last_to_the_first
                staged_steps_among_others_keep_their_order
                a_staged_step_that_no_store_takes_waits_alone_for_a_person
                what_staged_steps_append_is_in_inline_views_at_once
                staged_steps_that_others_are_faster_than_have_not_failed
            }
            beginnings {
                what_a_first_step_has_staged_before_it_failed_is_gone
                a_start_whose_steps_no_store_takes_begins_and_blames_the_step
                a_start_that_finds_a_run_runs_no_step
                of_two_starts_that_append_the_same_events_one_begins
            }
            destinations {
                a_destination_that_fails_is_tried_by_one_and_waiting_is_no_try
                runs_that_wait_for_a_destination_hold_up_no_other
                an_outage_is_no_time_of_trying
                a_panic_says_nothing_of_who_is_called
                a_run_that_is_repaired_while_it_waits_is_not_damaged_any_more
            }
            signals {
                a_step_waits_for_what_is_sent_whenever_that_comes
                what_comes_too_late_or_is_not_wanted_is_answered_as_that
                a_flood_of_signals_is_taken_once_by_nodes_that_come_and_go
                a_signal_at_the_end_of_a_run_is_answered_as_it_was
                what_is_sent_to_a_run_that_waits_for_a_person_is_taken
                what_a_run_fails_with_is_known_whatever_is_sent_to_it
                what_is_too_large_or_says_something_else_is_not_taken
                what_only_another_program_can_read_can_be_sent_again
                signals_that_came_early_are_taken_in_turn_however_many
            }
            tcc {
                every_branch_is_confirmed_or_every_one_is_cancelled
                what_may_have_reserved_is_cancelled_and_never_reserves_after_that
                each_call_of_a_branch_acts_once_under_its_key
                a_reservation_under_way_is_waited_for_or_barred
                once_every_branch_has_reserved_nothing_cancels_it
                a_deadline_cancels_what_has_not_all_reserved
                a_tcc_of_a_node_that_is_gone_goes_on_elsewhere
                what_an_operator_says_of_a_branch_counts
                a_saga_and_a_tcc_of_one_name_and_input_are_two
                a_reservation_that_fails_once_it_is_decided_says_nothing_of_its_cancel
                a_tcc_keeps_the_branches_that_it_began_with
            }
            three_phase {
                all_participants_commit_or_all_abort
                a_coordinator_that_dies_is_followed_after_each_phase
                one_that_waits_for_too_long_asks_for_what_it_knows
                one_that_does_not_reach_the_journal_waits_and_never_mixes
                a_vote_that_is_asked_for_after_the_abort_is_refused
                each_call_of_a_participant_acts_once
                one_that_is_away_for_long_follows_what_was_decided
                what_an_operator_says_of_a_participant_counts
                a_deadline_asks_for_a_decision_and_goes_by_it
                one_that_has_lost_its_vote_says_so_and_none_commits
                one_that_does_not_answer_keeps_nobody_from_an_end
                what_is_held_without_a_vote_is_said_at_each_look
                a_time_out_counts_from_the_vote
            }
            chains {
                all_links_commit_or_none_does_if_one_says_no
                a_node_that_is_gone_between_two_commits_is_followed
                a_commit_of_a_link_that_nobody_hears_is_found_out
                a_partial_outcome_is_undone_if_that_is_declared
                a_partial_outcome_waits_for_an_operator_if_that_is_declared
                what_says_no_once_others_have_committed_is_asked_about
                a_statement_that_has_failed_shows_before_anything_is_committed
                a_partial_outcome_that_was_undone_by_hand_ends_as_undone
                what_commits_while_its_deadline_passes_has_completed
                a_chain_of_which_nothing_is_committed_is_tried_for_long
                an_input_that_is_written_otherwise_each_time_is_the_same_one
                rows_of_chains_are_no_difference_to_the_journals_of_sagas
                a_link_that_a_database_has_lost_is_found
                what_may_have_committed_is_not_said_not_to_have
            }
            half {
                a_message_is_sent_once_if_its_local_transaction_commits
                what_is_rolled_back_leaves_no_trace
                a_caller_that_is_gone_leaves_a_message_that_is_decided
                what_a_node_that_is_gone_has_begun_acts_once
                a_check_waits_for_the_local_transaction_that_runs
                while_no_producer_is_there_nothing_is_counted
                a_listener_that_does_not_know_an_id_is_asked_again
                what_is_checked_in_vain_waits_for_a_person_who_decides
                a_check_without_a_guard_is_believed_once_the_call_has_returned
                the_same_key_again_is_the_same_message
                a_hint_decides_nothing
                a_listener_that_was_not_called_before_its_node_ended_is_called_by_the_next
                the_same_request_in_another_order_finds_what_it_has_begun
                a_message_is_appended_in_the_commit_of_what_it_follows_from
                messages_of_one_key_that_come_together_are_all_sent
                what_becomes_of_half_messages_is_what_their_guard_rows_say
                a_message_that_no_log_takes_is_refused_before_anything_is_begun
            }
            family {
                a_saga_within_runs_to_its_end_and_gives_its_output
                a_saga_within_that_refuses_undoes_the_one_around_it
                a_saga_within_waits_for_the_one_around_it_and_is_undone_with_it
                a_cancellation_and_a_deadline_reach_the_saga_within
                a_saga_within_that_is_the_pivot_decides
                a_saga_within_that_has_decided_is_not_undone
                what_an_operator_does_to_one_says_what_becomes_of_the_other
                a_saga_within_behind_the_pivot_is_tried_again
                families_go_on_on_other_nodes_and_act_once
                a_saga_within_that_wakes_nobody_is_looked_at_all_the_same
                that_no_node_has_the_version_of_a_saga_within_is_said
                a_run_that_is_repaired_while_the_saga_within_runs_is_not_damaged_any_more
                a_saga_within_gives_the_output_of_the_step_that_it_began_with
            }
            forgetting {
                what_ended_long_ago_is_forgotten_and_its_key_starts_anew
                a_write_to_a_run_that_is_forgotten_is_refused_for_ever
                a_long_run_is_forgotten_in_portions_whoever_is_lost_in_between
                one_of_a_family_is_kept_while_another_goes_on
                what_cannot_be_read_is_not_forgotten_and_holds_up_no_other
                runs_of_a_version_that_no_node_has_are_forgotten_by_the_newest
                a_clock_that_is_off_forgets_late_and_never_early
                a_start_that_meets_the_end_of_what_is_remembered_begins_anew
                a_run_that_cannot_be_forgotten_holds_up_no_other
                what_is_forgotten_is_read_about_once
                of_the_clocks_of_store_and_app_the_one_that_is_behind_forgets
                before_each_portion_it_is_judged_anew_what_may_be_forgotten
                runs_of_a_later_version_are_left_to_whoever_has_it
            }
            locks {
                of_many_runs_one_at_a_time_has_a_lock
                a_lock_goes_to_whoever_came_first_and_is_shared_by_those_that_share_it
                a_lock_is_held_until_its_run_ends_however_that_is
                a_deadline_and_a_cancellation_end_the_waiting_for_a_lock
                a_lock_of_a_run_that_is_gone_is_taken_over
                runs_that_wait_for_each_other_are_found_and_the_youngest_gives_way
                of_runs_that_wait_for_each_other_none_that_was_sent_forward_gives_way
                a_lock_that_is_left_as_its_node_is_gone_goes_to_the_next
                runs_of_two_versions_have_the_same_locks
                what_a_run_has_shared_it_does_not_have_alone_later
                a_saga_within_has_locks_of_its_own_and_counts_for_whom_it_keeps_waiting
            }
            starts {
                a_start_in_a_transaction_is_of_that_transaction
                a_start_in_a_decision_is_of_its_commit
                what_happens_to_a_run_is_told_once_with_it
                what_cannot_be_told_is_shown_and_is_no_failure_of_a_step
                a_start_by_hand_and_one_by_a_handler_in_a_transaction_are_one
                an_answer_that_comes_while_a_node_ends_is_not_asked_for_again
            }
            watching {
                runs_are_listed_by_what_they_do_and_fail_with
                a_run_that_cannot_be_read_is_shown_to_people_until_it_is_repaired
                what_would_come_of_a_failure_or_a_request_is_told_and_not_done
                many_runs_are_asked_at_once_and_no_other
                who_wakes_a_run_is_said
                what_a_person_sends_forward_is_undone_by_a_person_only
                a_node_says_whether_it_works_on_its_runs
                what_waits_for_a_person_says_all_that_it_waits_for
            }
            overview {
                transactions_of_every_pattern_are_in_one_list
                what_an_operator_wants_is_done_through_one_entry
                a_list_of_many_is_read_in_pages_and_none_is_left_out
            }
            reconciling {
                two_tables_that_differ_are_reported_class_by_class
                what_goes_on_or_has_just_changed_is_no_difference
                a_head_that_does_not_say_what_its_journal_does_is_found
            }
            comparing {
                what_is_pending_takes_no_place_of_what_differs
                what_ends_while_it_is_looked_at_is_not_done_again
                what_settles_in_no_run_is_told
                what_is_the_same_is_known_by_its_value
                a_key_that_is_there_twice_is_all_that_is_there_of_it
                an_older_run_takes_the_place_of_no_later_one
                what_is_too_much_to_be_right_is_not_done_again
                no_side_is_open_while_something_is_done_again
                what_was_accepted_is_listed_and_can_be_taken_back
                what_fails_for_one_key_keeps_no_other_from_being_done
            }
            inbox {
                a_message_that_comes_again_or_too_soon_changes_nothing
                a_gap_is_noticed_and_filled_in_order
                a_gap_that_may_be_filled_soon_is_not_told_at_once
                what_a_log_gives_that_is_no_message_blames_no_other
                a_consumer_that_dies_before_it_answers_takes_nothing_twice
                two_consumers_at_once_take_each_message_once
                a_message_that_fails_parks_its_lane_and_no_other
                a_parked_lane_that_cannot_be_read_is_in_no_others_way
                what_is_not_the_messages_fault_parks_nothing
                a_retry_takes_what_waits_in_order
                messages_that_arrive_during_a_retry_keep_the_order
                a_retry_that_fails_after_its_lane_was_parked_again_loses_nothing
                what_is_discarded_is_gone_and_stays_known
                what_waits_and_cannot_be_read_can_be_discarded
                another_message_under_the_same_name_is_refused
                messages_are_forgotten_after_a_while_but_not_what_waits
                odd_names_have_lanes_of_their_own
                a_message_that_an_inbox_has_not_got_is_found_in_the_log
            }
            copies {
                a_copy_has_what_its_aggregates_are_whoever_writes_it
                a_fill_writes_what_was_there_before_while_more_happens
                a_cache_holds_nothing_old_once_it_was_heard_of
                a_fill_writes_all_that_can_be_written_and_names_the_rest
            }
            blame {
                an_error_of_the_store_is_known_however_it_is_wrapped
                what_only_a_newer_program_can_read_is_left_to_it
                a_version_that_has_passed_parks_its_message
                a_line_that_is_lost_to_something_else_parks_its_message
            }
        }
    };
}
pub(super) use rules;

/// Those that need a second database, which memory is not.
macro_rules! rules_of_others {
    ($callback:ident) => {
        $callback! {
            guards {
                a_call_whose_commit_is_in_doubt_acts_once
                a_call_that_comes_after_its_undo_never_runs
                a_refusal_leaves_nothing_and_is_repeated
                an_undo_waits_for_the_call_that_runs
                what_was_forgotten_is_refused_and_never_run
                a_call_with_another_input_is_not_taken_for_the_same
                a_database_without_tables_says_what_to_do
                whether_a_call_has_run_is_answered_for_good
                what_has_failed_within_a_call_is_not_committed
            }
            places {
                a_step_in_another_database_acts_once_whatever_becomes_of_its_answers
                a_step_in_another_database_is_undone_if_it_has_run_and_else_barred
                a_refusal_of_another_database_is_final
                a_step_that_another_node_has_begun_acts_once
                a_run_that_another_database_has_forgotten_waits_for_a_person
                an_app_without_the_other_database_does_not_start
                guard_rows_are_forgotten_up_to_what_no_run_needs
                a_step_in_another_database_among_staged_ones_acts_once_and_is_undone_with_them
                guard_rows_and_journals_are_compared_both_ways
                a_guard_row_that_a_database_has_lost_is_missed
            }
            holds {
                a_confirmation_acts_once_and_bars_the_undo
                a_cancel_waits_for_the_reservation_whatever_the_isolation
                a_branch_in_another_database_is_confirmed_or_cancelled_once
                a_reservation_that_comes_after_its_cancel_never_runs
                a_confirmation_of_what_was_forgotten_waits_for_a_person
                what_a_guard_row_says_is_no_failure_of_its_database
            }
            three_phase {
                a_participant_whose_commits_are_in_doubt_stands_where_its_row_says
            }
            chains {
                a_link_in_another_database_commits_once_or_is_undone
            }
            half {
                a_local_transaction_in_a_second_database_acts_once
                a_lock_that_is_waited_for_in_vain_says_that_it_is_in_progress
            }
        }
    };
}
pub(super) use rules_of_others;

/// Those across databases: the store is one of several kinds, the others are PostgreSQL's.
macro_rules! rules_across {
    ($callback:ident) => {
        $callback! {
            atomic {
                all_databases_commit_or_none_does
                the_store_commits_with_the_others_and_is_never_prepared
                what_only_reads_is_not_prepared_and_one_writer_needs_no_decision
                one_writer_of_whose_commit_nobody_hears_is_asked_for
                a_failed_prepare_is_a_rollback_and_says_why
                a_decision_that_nobody_can_hear_is_found_out_later
                a_participant_that_is_not_configured_cannot_be_in_a_transaction
                two_databases_of_one_server_are_two_participants
                a_service_can_take_part
            }
            recovery {
                wherever_a_node_is_gone_all_is_committed_or_nothing
                a_coordinator_that_is_slow_loses_to_recovery
                recovery_leaves_what_is_young_to_its_coordinator
                a_prepare_that_comes_after_recovery_has_decided_is_taken_back
                what_is_rolled_back_by_hand_waits_for_a_person
                what_is_committed_by_hand_waits_for_a_person
                a_scan_that_fails_is_not_taken_for_an_empty_one
                a_participant_that_is_missed_is_refused_at_the_start
                recovery_is_of_a_store_and_of_no_node
                an_app_recovers_by_itself_and_shows_what_waits_for_a_person
                whoever_has_dropped_a_commit_can_ask_what_became_of_it
                two_participants_in_one_database_end_each_branch_once
            }
            storms {
                of_many_transactions_under_faults_each_is_whole
            }
            strays {
                what_is_committed_by_hand_stops_recovery_until_a_person_decides
                a_decision_that_the_store_has_lost_is_not_taken_for_none
                what_is_committed_by_hand_after_it_was_given_up_waits_for_a_person
                what_a_store_that_is_gone_has_prepared_is_adopted
                a_participant_that_is_away_hides_no_stray_of_others
                what_is_found_after_it_was_adopted_is_shown_and_ended
                a_branch_of_a_participant_that_was_renamed_is_shown_and_ended
                what_a_renamed_participant_has_committed_is_settled_by_its_own_name
                strays_leave_out_nothing_without_saying_so
                what_two_stores_have_prepared_under_one_id_is_not_decided_together
                a_decision_that_cannot_be_read_hides_no_stray
            }
            torn {
                what_was_found_torn_is_left_also_when_nobody_can_be_asked
                who_cannot_be_asked_is_not_taken_for_one_that_has_nothing
                what_is_not_to_be_committed_is_on_no_list_of_an_earlier_program
                what_an_operator_commits_without_the_store_is_not_said_to_be_committed
                what_an_operator_commits_in_part_is_not_said_to_be_aborted
                what_its_coordinator_has_given_up_is_decided
                who_could_not_be_asked_is_looked_at_after_an_operator_has_decided
                whoever_asks_about_what_is_committed_is_not_told_that_it_was_aborted
                what_is_noted_before_it_is_decided_is_no_failure_of_the_store
                what_is_torn_is_shown_also_while_nobody_can_read_what_was_decided
            }
            limits {
                a_database_that_hangs_holds_nobody_for_long
                what_ends_a_branch_does_not_wait_behind_those_that_wait_for_it
                one_branch_that_cannot_be_ended_keeps_no_other
                a_participant_that_hangs_takes_a_look_no_longer_than_one_answer
                a_row_that_cannot_be_read_keeps_no_other
                recovery_leaves_to_its_coordinator_what_was_just_decided
                a_branch_begins_where_it_is_ended
                what_is_to_be_rolled_back_where_nobody_looks_is_shown
                a_participant_that_is_slow_takes_its_share_of_a_look
                a_database_that_hangs_holds_no_beginning_and_no_start
                many_decide_at_the_same_time
                a_participant_that_hangs_is_waited_for_no_longer_than_an_outage
                a_row_of_the_list_that_hangs_keeps_no_other_for_ever
                a_store_that_is_slow_takes_its_share_of_a_look
            }
            kept {
                what_was_decided_is_forgotten_once_all_of_it_is_done
                whoever_is_overtaken_or_waits_is_told_what_is_so
            }
            undoable {
                a_branch_that_only_runs_is_kept_or_taken_back
                each_change_of_a_tracked_branch_acts_once
                a_row_that_has_changed_since_waits_for_a_person_at_once
                what_a_lost_node_has_committed_is_kept_or_taken_back_elsewhere
                runs_that_want_each_others_rows_end
                a_row_of_another_run_is_tried_for_as_long_as_a_branch_says
                a_table_that_is_not_noted_any_more_keeps_a_program_from_starting
                what_one_branch_frees_and_another_takes_goes_back_in_whichever_order
                an_undo_that_waits_for_a_later_one_is_no_failure_of_its_database
            }
            overview_across {
                what_is_across_databases_is_in_the_one_list
                a_participant_that_cannot_be_asked_is_named_and_keeps_no_other_from_the_list
                what_is_prepared_and_what_was_decided_are_compared
                what_is_rolled_back_is_in_the_list_while_a_participant_is_away
                a_retry_across_databases_says_what_it_has_left
            }
        }
    };
}
pub(super) use rules_across;

/// Those that need a server of their own.
macro_rules! rules_of_servers {
    ($callback:ident) => {
        $callback! {
            servers {
                a_commit_of_the_store_that_nobody_hears_is_found_out
                a_server_that_prepares_nothing_is_found_at_the_start
                what_is_prepared_survives_a_crash_of_its_server
                what_another_session_is_ending_is_busy_and_not_gone
                what_is_dropped_leaves_no_transaction_to_the_next
                a_branch_that_has_written_to_a_foreign_table_is_not_committed_before_the_decision
                a_branch_under_another_role_is_not_prepared
                what_nobody_answers_keeps_no_connection_from_what_ends_branches
                what_ends_branches_goes_by_the_options_that_the_pool_has_now
                a_pool_may_be_given_another_user
            }
        }
    };
}
pub(super) use rules_of_servers;
