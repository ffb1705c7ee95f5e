"""Which tasks are wanted, as a table; what a fleet makes of a burst; and the template that says both."""

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.infra.cloudformation import NotUnderstood
from penstock.infra.scaling.__main__ import main, play, steady_load
from penstock.infra.scaling.fleet import METRIC_DELAY_SECONDS, START_SECONDS, Arrival, Fleet, FleetResult, Task, Work
from penstock.infra.scaling.rules import MINUTE_SECONDS, POINTS_IN, POINTS_OUT, Rules, Scaled, decide, read_rules
from penstock.settings import Settings
from tests.support.builders import build_settings
from tests.support.full import full

RULES = Rules(
    target=100,
    min_tasks=1,
    max_tasks=20,
    out_cooldown_seconds=60,
    in_cooldown_seconds=300,
    stop_seconds=90,
    processes=1,
    virtual_cpus=1,
    memory_gib=2,
)
NOW = 10_000.0
DAY_SECONDS = 24 * 3600
MILLION = 1_000_000


def scaled(tasks: int, before: int | None = None, *, out_ago: float = math.inf, in_ago: float = math.inf) -> Scaled:
    return Scaled(tasks, tasks if before is None else before, out_at=NOW - out_ago, in_at=NOW - in_ago)


@pytest.mark.parametrize(
    ("standing", "metric", "at_once", "tasks"),
    [
        (scaled(2), [], True, 2),  # nothing is known
        (scaled(2), [500], True, 2),  # two minutes are no proof
        (scaled(2), [500, 500], True, 2),
        (scaled(2), [500, 500, 500], True, 10),
        (scaled(2), [500, 100, 500], True, 2),  # at the target is not above it
        (scaled(2), [900, 900, 101], True, 3),  # in proportion to the last minute
        (scaled(2), [9_000] * 3, True, 20),  # never more than there may be
        (scaled(20), [9_000] * 3, True, 20),
        (scaled(10, 2, out_ago=30), [500] * 3, True, 10),  # what was added a moment ago counts already
        (scaled(10, 2, out_ago=30), [900] * 3, True, 18),  # only what is more than that is added
        (scaled(10, 2, out_ago=60), [200] * 3, True, 20),  # the cooldown is over
        (scaled(10), [0] * (POINTS_IN - 1), True, 10),
        (scaled(10), [0] * POINTS_IN, True, 1),  # never fewer than there must be
        (scaled(10), [0] * POINTS_IN, False, 9),
        (scaled(10), [89] * POINTS_IN, True, 9),
        (scaled(10), [90] * POINTS_IN, True, 10),  # nine tenths of the target are enough
        (scaled(10), [200] + [0] * POINTS_IN, True, 1),
        (scaled(10), [0] * 14 + [95], True, 10),
        (scaled(10, in_ago=299), [0] * POINTS_IN, True, 10),  # the cooldown
        (scaled(10, in_ago=300), [0] * POINTS_IN, False, 9),
        (scaled(10, in_ago=10), [150] * 3, True, 15),  # scaling out waits for no cooldown of scaling in
        (scaled(1), [0] * POINTS_IN, True, 1),
    ],
)
def test_tasks_are_wanted_by_what_waits_for_each(
    standing: Scaled, metric: list[float], at_once: bool, tasks: int
) -> None:
    decided = decide(RULES, NOW, standing, metric, at_once=at_once)
    assert decided.tasks == tasks
    if tasks == standing.tasks:
        assert decided == standing
    elif tasks > standing.tasks:
        assert (decided.out_at, decided.before) == (
            NOW,
            standing.before if standing.out_at > NOW - 60 else standing.tasks,
        )
    else:
        assert decided.in_at == NOW


# --- The template


def test_rules_are_the_templates() -> None:
    rules = read_rules({})
    assert rules.target == 100
    assert 1 <= rules.min_tasks < rules.max_tasks
    assert rules.in_cooldown_seconds > rules.out_cooldown_seconds >= MINUTE_SECONDS
    assert (rules.processes, rules.virtual_cpus, rules.memory_gib) == (1, 1, 2)


def test_parameters_of_the_template_change_them() -> None:
    given = {"MaxConsumers": "50", "BacklogPerConsumer": "40", "ConsumerCpu": "4096", "ConsumerProcesses": "4"}
    rules = read_rules(given)
    assert (rules.max_tasks, rules.target, rules.virtual_cpus, rules.processes) == (50, 40, 4, 4)
    with pytest.raises(NotUnderstood, match="MaxConsumer"):
        read_rules({"MaxConsumer": "50"})


def test_task_is_killed_only_long_after_it_has_stopped() -> None:
    """A receive is finished and handlers have their grace, recording takes ten seconds, the last spans three."""
    settings = Settings()
    assert read_rules({}).stop_seconds >= settings.receive_wait_seconds + settings.grace_seconds + 10 + 3 + 10


# --- The fleet


def work(handler_seconds: float, **settings: int) -> Work:
    return Work(handler_seconds, 10_000, build_settings(receive_wait_seconds=20, grace_seconds=20, **settings))


def burst(handler_seconds: float, rules: Rules = RULES, *, at_once: bool = True) -> FleetResult:
    return Fleet(rules, work(handler_seconds), at_once=at_once).run([Arrival(300, MILLION)], DAY_SECONDS)


@pytest.mark.parametrize(
    ("handler_seconds", "per_second", "chunk"),
    [
        (0, 10_000, 1_000),  # the consumer's own speed; the most that a chunk holds
        (0.0005, 10_000, 1_000),
        (0.005, 2_000, 400),  # ten slots, two seconds of handler time
        (0.02, 500, 100),
        (1, 10, 2),
        (60, 1 / 6, 1),
    ],
)
def test_work_is_done_as_fast_as_slots_and_the_core_allow(
    handler_seconds: float, per_second: float, chunk: int
) -> None:
    assert work(handler_seconds).per_second == pytest.approx(per_second)
    assert work(handler_seconds).chunk_operations(MILLION) == chunk


def test_small_batch_is_cut_so_that_several_tasks_find_a_chunk() -> None:
    assert work(0.02, min_chunks=16).chunk_operations(320) == 40


def test_fleet_that_cannot_grow_takes_as_long_as_its_work() -> None:
    run = burst(0.005, replace(RULES, max_tasks=1))
    assert run.burst_done_at is not None
    assert run.burst_done_at - 300 == pytest.approx(MILLION / 2_000, abs=2)
    assert (run.most_tasks, run.stops, run.lost) == (1, 0, 0)


def test_fleet_grows_as_soon_as_the_metric_and_a_start_allow() -> None:
    run = burst(0.02)
    grown_at = next(moment.at_seconds for moment in run.moments if moment.running > 1)
    soonest = 300 + POINTS_OUT * MINUTE_SECONDS + METRIC_DELAY_SECONDS + START_SECONDS
    assert soonest - MINUTE_SECONDS <= grown_at <= soonest + MINUTE_SECONDS


def test_burst_of_a_million_is_drained_by_the_whole_fleet_in_minutes() -> None:
    """By the template's rules: 33 minutes' work of one task, of handlers that take 20 ms."""
    run = burst(0.02, read_rules({}))
    assert run.burst_done_at is not None
    assert run.burst_done_at - 300 < 7 * MINUTE_SECONDS
    assert run.most_tasks == read_rules({}).max_tasks


@pytest.mark.parametrize("at_once", [True, False])
def test_fleet_is_small_again_when_nothing_is_left(at_once: bool) -> None:
    run = burst(0.02, at_once=at_once)
    assert (run.moments[-1].paid, run.moments[-1].done, run.lost) == (1, MILLION, 0)
    assert run.stops == run.most_tasks - 1
    assert run.longest_stop_seconds <= RULES.stop_seconds


@pytest.mark.parametrize("handler_seconds", [60, *full([0.02, 1])])
def test_tasks_that_are_stopped_under_load_hand_on_what_they_have_begun(handler_seconds: float) -> None:
    case = play(RULES, work(handler_seconds), steady_load(RULES, work(handler_seconds), 1.5, seconds=5_000))
    for run in case.results:
        assert run.stops > 0
        assert (run.lost, run.done) == (0, run.arrived)
        assert all(moment.waiting + moment.held + moment.done <= run.arrived for moment in run.moments)
    assert handler_seconds < 20 or case.at_once.handed_on > 0  # beyond the grace period


def test_stopped_task_ends_what_runs_and_hands_on_the_rest() -> None:
    fleet = Fleet(RULES, work(5), at_once=True)
    task = Task(receives_at=0)
    task.held.extend([1] * 14)
    fleet._stop(task, 100)
    assert (fleet._result.done, fleet._result.handed_on, len(fleet._queue), task.operations) == (10, 4, 4, 0)
    assert task.ends_at == 105


def test_stopped_task_cuts_what_outlasts_the_grace_period() -> None:
    fleet = Fleet(RULES, work(60), at_once=True)
    task = Task(receives_at=0)
    task.held.extend([1] * 14)
    fleet._stop(task, 100)
    assert (fleet._result.done, fleet._result.handed_on, task.ends_at) == (0, 14, 120)


# --- What people are shown


def test_tables_and_picture_tell_of_burst_and_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "scaling.png"
    arguments = "--operations 50_000 --handler-ms 20 --load-handler-ms 60_000 --parameter MaxConsumers=3 --plot"
    monkeypatch.setattr(sys, "argv", ["penstock.infra.scaling", *arguments.split(), str(picture)])
    main()
    told = capsys.readouterr().out
    assert "1 to 3 tasks; the target is 100 waiting chunks for each task. Burst: 50,000 operations" in told
    assert re.search(r"\|\s+20 ms \|\s+100 \|\s+1.7 min \|", told), told
    assert "Consumers, idle: 36 USD a month" in told
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("parameter", "words"), [("MaxConsumer=3", "the template has no parameter MaxConsumer"), ("3", "write NAME=VALUE")]
)
def test_parameter_that_there_is_not_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], parameter: str, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["penstock.infra.scaling", "--parameter", parameter])
    with pytest.raises(SystemExit) as ended:
        main()
    assert words in f"{ended.value} {capsys.readouterr().err}"
