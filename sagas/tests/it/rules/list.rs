//! The list of all rules of processes, in one place: for the tests, and for the table in `docs/rules.md`.

macro_rules! rules {
    ($callback:ident) => {
        $callback! {
            lives {
                a_start_that_comes_twice_makes_one_instance
                a_reply_that_comes_first_is_not_lost
                more_than_one_read_of_events_may_wait_for_instances
                an_ended_instance_is_not_revived
                one_that_may_begin_again_does_so_behind_its_end
                an_instance_that_ends_as_it_starts_leaves_its_tombstone
                a_failing_handler_parks_its_instance_and_no_other
                instances_keep_their_version
            }
            found {
                an_instance_is_found_by_what_it_is_associated_with_and_not_after
                an_event_by_a_second_key_is_not_lost
                an_instance_that_an_event_names_twice_takes_it_once
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
                timers_of_one_slice_fire_however_many
            }
            operators {
                what_is_asked_while_a_timer_is_overdue_is_done
                what_has_waited_sets_due_timers_anew
                a_command_that_is_retried_twice_at_once_is_sent
                an_instance_with_a_command_that_is_held_stays_parked
                an_input_whose_event_is_gone_parks_its_instance
                an_answer_waits_for_its_instance_to_be_repaired
            }
            schedule {
                what_is_scheduled_is_sent_once_its_time_has_come
                what_is_called_off_is_not_sent
                what_is_scheduled_within_a_transaction_shares_its_outcome
            }
            commits {
                state_commands_timers_and_checkpoint_are_one_commit
                a_command_acts_once_whoever_sends_it
                a_rebuild_of_its_inputs_is_byte_equal_and_sends_nothing
            }
            sharing {
                nodes_that_come_and_go_lose_no_instance_and_act_once
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
            }
        }
    };
}
pub(super) use rules;
