"""Teeth: each fault that is put into Penstock on purpose is found, by the seed or the call stored with it.

After a change of the programs a stored seed may play another run, and find nothing any more. Then
`python -m tests.simulation --teeth` searches for one that does; store it in `mutations.py`.
"""

import functools
from collections.abc import Iterable
from typing import Any

import pytest

from tests.simulation.mutations import MUTATIONS, MUTATIONS_AT_CALLS
from tests.simulation.situations import SITUATIONS, play
from tests.simulation.teeth import is_found, is_found_at, mix_of, play_seed
from tests.support.full import full

# Each takes over a second: its handlers or batches never end, so programs wait for them again and again; or its runs
# are long, or many.
SLOW = {
    "wait_for_a_handler_that_never_ends",
    "go_on_without_slots",
    "allow_one_death_less",
    "count_deliveries_as_deaths",
    "drop_the_rest_of_a_chunk_that_is_cut",
    "reserve_memory_for_ever",
    "give_back_as_if_nothing_had_started",
    "forget_the_follow_ups_on_redelivery",
    "tell_what_is_not_counted",
    "give_back_without_a_condition",
    "give_back_what_has_come_back",
    "charge_again_when_repeated",
    "use_old_marks",
    "replace_a_plan",
    "go_on_sending_one_group_too_late",
    "go_on_validating_one_line_too_late",
    "read_whatever_file_is_there",
    "run_what_is_not_accepted",
    "compare_no_ids",
    "count_the_lines_of_a_group_alone",
    "compare_only_the_ids_that_are_written",
    "leave_retries_to_the_consumer_that_failed",
    "drop_what_was_received_often_while_paused",
    "overlook_refused_entries",
    "give_back_as_if_all_had_started",
    "abandon_by_the_clock_alone",
    "drop_chunks_without_a_stand_in",
    "finish_whatever_the_ending_is",
    "finish_without_the_time_of_the_start",
    "blame_those_that_ran_beside_poison",
    "commit_a_group_with_a_failure",
    "run_the_members_of_a_group_apart",
    "release_dependants_within_a_group",
    "start_early",
    "take_any_verdict_for_success",
    "let_dependants_wait_for_ever",
    "let_connected_operations_follow_apart",
    "fail_dependants_of_what_is_tried_again",
    "plan_connected_operations_apart",
    "share_the_attempts_of_a_chunk",
    "start_when_the_first_has_succeeded",
    "blame_a_whole_component",
    "name_files_by_operation",
    "lose_attempts_when_splitting",
    "fold_what_was_counted_meanwhile",
    "lose_an_operation_between_pieces",
    "run_a_last_attempt_beside_others",
    "hide_paused_chunks_without_a_note",
    "never_take_the_sweep_over",
    "hold_paused_chunks_while_stopping",
    "leave_a_queue_paused",
    "finish_without_looking_at_all_groups",
    "take_a_key_over_without_abandoning",
    "finish_chunks_although_paused",
}
ADVICE = "find another one with: python -m tests.simulation --teeth"


@functools.cache
def _check_seed(seed: int, mix: str) -> None:
    """Check that the programs keep their promises without the fault. Several faults may have the same seed."""
    play_seed(seed, mix)


def cases(names: Iterable[str]) -> list[Any]:
    return [name for name in names if name not in SLOW] + full(name for name in names if name in SLOW)


@pytest.mark.parametrize("name", cases(MUTATIONS))
def test_mutation_is_found_by_its_seed(name: str) -> None:
    mutation = MUTATIONS[name]
    assert mix_of(mutation) == mutation.mix
    assert is_found(mutation, mutation.seed), f"Seed {mutation.seed} no longer finds {name}; {ADVICE}"
    _check_seed(mutation.seed, mutation.mix)


@pytest.mark.parametrize("name", cases(MUTATIONS_AT_CALLS))
def test_mutation_is_found_where_its_call_fails(name: str) -> None:
    mutation = MUTATIONS_AT_CALLS[name]
    assert is_found_at(mutation, mutation.call, mutation.hit), f"Call {mutation.call} no longer finds {name}; {ADVICE}"
    play(SITUATIONS[mutation.situation], {mutation.call: mutation.hit})
