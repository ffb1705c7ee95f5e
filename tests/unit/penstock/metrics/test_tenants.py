"""Which tenants have metrics of their own: the busiest ten, and within an hour always the same."""

import pytest

from penstock.metrics.meter import Figures, Meter
from penstock.metrics.metric_data import entries
from penstock.metrics.names import Program, TenantMetric
from penstock.metrics.tenants import CANDIDATES, NAMED, NO_TENANT, OTHER_TENANTS, Busiest
from penstock.service.caller import is_tenant

HOUR = 3600
TENANTS = [f"t{number}" for number in range(NAMED)]


def busiest(**operations: int) -> Busiest:
    """Return a choice in which ten tenants have names. Each had 100 operations, or as many as given."""
    choice = Busiest()
    choice.choose(0)
    for tenant in TENANTS:
        choice.add(tenant, operations.get(tenant, 100))
        assert choice.name_of(tenant) == tenant
    return choice


def test_ten_tenants_have_names_and_all_others_share_one() -> None:
    choice = busiest()
    assert {choice.name_of(f"x{number}") for number in range(1_000)} == {OTHER_TENANTS}
    assert [choice.name_of(tenant) for tenant in TENANTS] == TENANTS


def test_no_tenant_can_have_the_name_of_a_group() -> None:
    assert not is_tenant(OTHER_TENANTS)
    assert not is_tenant(NO_TENANT)


def test_names_change_on_the_hour_only() -> None:
    choice = busiest(t3=1)
    choice.add("new", 1_000)
    assert choice.choose(HOUR - 1) == set()
    assert choice.name_of("new") == OTHER_TENANTS
    assert choice.choose(HOUR) == {"t3"}
    assert (choice.name_of("new"), choice.name_of("t3")) == ("new", OTHER_TENANTS)


@pytest.mark.parametrize(("operations", "replaces"), [(100, False), (200, False), (201, True)])
def test_tenant_needs_twice_as_many_operations_to_replace_another(operations: int, replaces: bool) -> None:
    choice = busiest()
    choice.add("new", operations)
    assert bool(choice.choose(HOUR)) is replaces


def test_tenants_that_take_turns_keep_their_names() -> None:
    """Eleven tenants are about as busy as each other, and each hour another one is first."""
    choice = busiest()
    for hour in range(1, 100):
        for number, tenant in enumerate([*TENANTS, "new"]):
            choice.add(tenant, 150 if (number + hour) % 11 == 0 else 100)
        assert choice.choose(hour * HOUR) == set()


def test_tenant_that_was_busy_long_ago_is_replaced() -> None:
    choice = busiest(t0=1_000_000)
    choice.choose(HOUR)
    choice.choose(12 * HOUR)  # nothing was counted in between
    for tenant in (*TENANTS[1:], "new"):
        choice.add(tenant, 1_000)
    assert choice.choose(13 * HOUR) == {"t0"}


def test_busy_tenant_is_found_among_any_number_of_others() -> None:
    choice = busiest(**dict.fromkeys(TENANTS, 10))
    for number in range(20 * CANDIDATES):
        choice.add(f"x{number}", 1)
        if number % 20 == 0:
            choice.add("busy", 10)
    assert len(choice._operations) == CANDIDATES
    choice.choose(HOUR)
    assert choice.name_of("busy") == "busy"


def test_free_places_go_to_the_busiest_on_the_hour() -> None:
    choice = Busiest()
    choice.choose(0)
    for number in range(2 * NAMED):
        choice.add(f"t{number}", number + 1)
    choice.choose(HOUR)
    named = [number for number in range(2 * NAMED) if choice.name_of(f"t{number}") != OTHER_TENANTS]
    assert named == list(range(NAMED, 2 * NAMED))


# --- What the meter does with the names


def fill(meter: Meter) -> None:
    for tenant in TENANTS:
        meter.accepted(tenant, 1)
    meter.accepted("new", 30)
    meter.failures("new", 2)
    meter.rejected("new", 429)
    meter.rejected(None, 401)
    meter.acted("t1", "cancel")


def counts(figures: Figures) -> dict[tuple[str, str, str], int]:
    return {(count.metric.value, count.tenant, count.kind): times for count, times in figures.tenants.items()}


def test_what_is_counted_keeps_the_name_under_which_it_was_counted() -> None:
    meter = Meter()
    meter.choose_tenants(0)
    fill(meter)
    before = meter.take()
    meter.choose_tenants(HOUR)
    dropped = [tenant for tenant in TENANTS if meter._busiest.name_of(tenant) == OTHER_TENANTS]
    meter.accepted("new", 5)
    meter.accepted(dropped[0], 7)
    totals = counts(meter.totals())
    assert counts(before)["TenantOperations", OTHER_TENANTS, ""] == 30
    assert totals["TenantOperations", "new", ""] == 5
    assert totals["TenantOperations", OTHER_TENANTS, ""] == 37  # a counter never decreases
    assert not [tenant for _, tenant, _ in totals if tenant in dropped]


def test_cloudwatch_gets_a_sum_for_each_tenant_and_no_zeros() -> None:
    meter = Meter()
    fill(meter)
    meter.rejected("t1", 403)
    meter.rejected("t1", 429)
    figures = meter.take()
    sent = [entry for entry in entries(figures, Program.SERVICE, "shop", 0, by_tenant=True) if "Value" in entry]
    sums = {(entry["MetricName"], entry["Dimensions"][1]["Value"]): entry["Value"] for entry in sent}
    assert sums == {
        **{("TenantOperations", tenant): 1 for tenant in TENANTS},
        ("TenantOperations", OTHER_TENANTS): 30,
        ("TenantFailures", OTHER_TENANTS): 2,
        ("TenantRejections", OTHER_TENANTS): 1,
        ("TenantRejections", NO_TENANT): 1,
        ("TenantRejections", "t1"): 2,
        ("TenantActions", "t1"): 1,
    }
    assert [one["Name"] for one in sent[0]["Dimensions"]] == ["Service", "Tenant"]
    without = [entry["MetricName"] for entry in entries(figures, Program.SERVICE, "shop", 0)]
    assert not set(without) & set(TenantMetric)


def test_nothing_counted_is_no_metric() -> None:
    meter = Meter()
    meter.accepted("a", 0)
    meter.failures("a", 0)
    meter.finished("a", 0)
    assert meter.take().tenants == {}
