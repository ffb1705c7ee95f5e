"""The fault mixes: which faults happen in a run, and how often."""

import random
from dataclasses import dataclass, field, replace

from penstock.settings import Settings
from tests.simulation.network import Fate, Fault
from tests.simulation.process import Process
from tests.simulation.sqs import Oddities

SEVERAL = [Fault.REFUSED, Fault.REQUEST_LOST, Fault.ANSWER_LOST, Fault.LATE, Fault.REPEATED]


@dataclass(frozen=True, slots=True)
class Mix:
    """How often faults happen: as shares of calls, batches or operations, or as mean seconds between two faults."""

    name: str
    faults: float = 0.0
    slow: float = 0.0
    late: float = 0.0  # calls that take effect after their caller has given up
    oddities: Oddities = field(default_factory=Oddities)
    short_pages: bool = False
    stale_reads: float = 0.0
    lost_receives: float = 0.0  # the answer to the receive is lost, so its messages are nobody's until their leases end
    outage: float | None = None  # AWS answers nobody for longer than a lease
    kill_all: float | None = None  # all consumers at the same moment
    kill_consumer: float | None = None
    kill_front_end: float | None = None
    pause: float | None = None
    terminate: float | None = None
    jump_clock: float | None = None
    skew_seconds: float = 0.0
    redrive: float | None = None
    garbage: float | None = None
    lose: float | None = None  # messages
    poison: float = 0.0  # operations that kill or block their process
    poison_seconds: tuple[float, ...] = ()  # after which they do that, if not after the time of any operation
    endless: float = 0.0  # operations that ignore their cancellation and never end
    keys: float = 0.3
    later: float = 0.1
    cancels: float = 0.0
    deadlines: float = 0.0
    limits: float = 0.0
    retries: float = 0.0
    pause_queue: float | None = None
    steers: float = 0.0  # how often clients change a batch while it runs, each time that they look
    deadline_seconds: float = 24 * 3600.0
    max_deaths: tuple[int, ...] = (1_000,)
    has_parents: bool = False  # the consumers have parents, which know when they die
    is_large: bool = False  # hundreds of operations and slots
    has_little_memory: bool = False  # for results, and there are long ones
    uploads: float = 0.0  # submissions that are files in the bucket
    has_bucket: bool = False  # for files: `World.files`
    has_quota: bool = False  # and many batches, which are small
    has_webhooks: bool = False  # the ends of batches are told to receivers
    links: float = 0.0  # how often an operation depends on others
    groups: float = 0.0  # how often an operation begins an atomic group

    @property
    def is_gentle(self) -> bool:
        """Return True if no process dies and nothing is lost. Then no operation may run again after a stop."""
        return self.name in {"calm", "rollouts", "endings", "steering"}

    @property
    def are_leases_kept(self) -> bool:
        """Return True if the queue delivers a message again only after its lease."""
        return self.oddities == Oddities()

    @property
    def is_evidence_needed(self) -> bool:
        """Return True if leases end only because a process died. Then an operation is suspected only of a death."""
        return self.is_gentle or self.is_poison_alone or self.name in {"kills", "mass deaths", "parents"}

    @property
    def is_quick(self) -> bool:
        """Return True if processes die, but no call fails or takes long, and no fault pauses a process."""
        return self.is_poison_alone or self.name in {"kills", "mass deaths"}

    @property
    def is_poison_alone(self) -> bool:
        """Return True if consumers die only of the operations that they run."""
        return self.name in {"poison", "poison, stopped", "poison, while counts wait"}


_ODD = Oddities(
    stands_twice=0.1,
    delivered_though_held=0.1,
    comes_back=0.1,
    finds_nothing=0.1,
    refuses_entry=0.1,
    old_receipt_acts=0.5,
    strands=0.3,
)

CALM = Mix("calm", short_pages=True)
MIXES = [
    CALM,
    Mix("rollouts", terminate=4, short_pages=True, endless=0.05),
    Mix("kills", kill_consumer=10, kill_front_end=15),
    Mix("network", faults=0.15, slow=0.02, short_pages=True, stale_reads=0.3),
    Mix("late", late=0.25, slow=0.1, kill_front_end=4, keys=0.9),
    Mix("queue", oddities=_ODD, garbage=20, stale_reads=0.3),
    Mix("pauses", pause=5),
    Mix("clocks", jump_clock=5, skew_seconds=30, kill_front_end=20, deadlines=0.3),
    Mix("poison", poison=0.1),
    Mix("poison, stopped", poison=0.3, max_deaths=(1, 5)),
    Mix("suspects", poison=0.05, slow=0.1, oddities=_ODD, kill_consumer=10),
    Mix("endings", cancels=0.4, deadlines=0.4, limits=0.3, retries=0.3, redrive=15, terminate=20, short_pages=True),
    Mix("losses", lose=5, slow=0.1, kill_consumer=20, cancels=0.2, deadline_seconds=60, stale_reads=0.3),
    Mix("sweeps", slow=0.2, deadlines=1.0, cancels=0.2, kill_consumer=30),
    Mix("redrives", redrive=5, retries=0.5, kill_consumer=15, kill_front_end=20, faults=0.03),
    Mix(
        "storm",
        faults=0.1,
        slow=0.02,
        oddities=_ODD,
        short_pages=True,
        stale_reads=0.3,
        kill_consumer=20,
        kill_front_end=30,
        pause=20,
        terminate=15,
        jump_clock=20,
        skew_seconds=5,
        redrive=20,
        garbage=40,
        poison=0.03,
        endless=0.03,
        cancels=0.1,
        deadlines=0.2,
        limits=0.2,
        retries=0.3,
        max_deaths=(1_000, 1_000, 3),
    ),
]

# These have seeds of their own, because most of them take longer.
DEFAULT_MAX_DEATHS = Settings.model_fields["max_deaths"].default
LARGE_MIXES = [
    Mix("mass deaths", kill_all=30, lost_receives=0.05, max_deaths=(DEFAULT_MAX_DEATHS,), is_large=True),
    Mix("poison, while counts wait", poison=0.1, poison_seconds=(0.2, 0.3, 0.4)),
    Mix("parents", kill_consumer=3, poison=0.1, terminate=30, faults=0.02, has_parents=True),
    Mix("outages", outage=60, lost_receives=0.05, max_deaths=(DEFAULT_MAX_DEATHS,), is_large=True),
    Mix(
        "long results",
        slow=0.05,
        oddities=_ODD,
        kill_consumer=10,
        terminate=20,
        cancels=0.1,
        deadlines=0.1,
        retries=0.3,
        redrive=20,
        has_little_memory=True,
    ),
    Mix(
        "results in the bucket",
        faults=0.05,
        late=0.1,
        slow=0.05,
        oddities=_ODD,
        kill_consumer=10,
        kill_front_end=30,
        terminate=20,
        retries=0.3,
        redrive=20,
        has_little_memory=True,
        has_bucket=True,
    ),
    Mix(
        "steering",
        steers=0.4,
        cancels=0.05,
        deadlines=0.2,
        limits=0.2,
        terminate=8,
        redrive=30,
        pause_queue=20,
        short_pages=True,
    ),
    Mix(
        "steering, storm",
        faults=0.05,
        slow=0.02,
        late=0.02,
        oddities=_ODD,
        kill_consumer=20,
        kill_front_end=20,
        pause=30,
        terminate=30,
        redrive=30,
        poison=0.02,
        cancels=0.05,
        deadlines=0.2,
        limits=0.2,
        pause_queue=20,
        steers=0.4,
    ),
    Mix(
        "quotas", faults=0.1, slow=0.02, late=0.05, kill_front_end=4, skew_seconds=1, keys=0.7, later=0, has_quota=True
    ),
    Mix(
        "uploads",
        faults=0.08,
        slow=0.05,
        late=0.05,
        oddities=replace(_ODD, stands_twice=0.4),
        short_pages=True,
        stale_reads=0.3,
        kill_consumer=6,
        kill_front_end=20,
        pause=15,
        terminate=15,
        skew_seconds=5,
        keys=0.5,
        cancels=0.15,
        deadlines=0.15,
        uploads=0.9,
        has_bucket=True,
    ),
    Mix(
        "webhooks",
        faults=0.1,
        late=0.05,
        short_pages=True,
        stale_reads=0.3,
        kill_consumer=5,
        kill_front_end=30,
        terminate=20,
        pause=30,
        skew_seconds=1,
        cancels=0.2,
        deadlines=0.2,
        retries=0.7,
        redrive=10,
        has_webhooks=True,
    ),
    Mix("groups", terminate=10, cancels=0.05, limits=0.1, retries=0.5, links=0.4, groups=0.3),
    Mix("links", terminate=10, cancels=0.05, limits=0.1, short_pages=True, links=0.6),
    Mix(
        "links, storm",
        faults=0.05,
        slow=0.02,
        late=0.02,
        oddities=_ODD,
        stale_reads=0.3,
        kill_consumer=15,
        kill_front_end=30,
        pause=30,
        terminate=20,
        redrive=20,
        poison=0.05,
        cancels=0.05,
        deadlines=0.1,
        limits=0.1,
        retries=0.6,
        steers=0.1,
        links=0.6,
    ),
    Mix(
        "groups, storm",
        faults=0.05,
        slow=0.02,
        oddities=_ODD,
        stale_reads=0.3,
        kill_consumer=15,
        kill_front_end=30,
        terminate=20,
        redrive=20,
        poison=0.05,
        cancels=0.05,
        deadlines=0.1,
        retries=0.6,
        links=0.4,
        groups=0.3,
    ),
]


def mix_named(name: str) -> Mix:
    return next(mix for mix in (*MIXES, *LARGE_MIXES) if mix.name == name)


class RandomFates:
    """Chooses the fate of each call at random. After the storm every call succeeds."""

    def __init__(self, mix: Mix, chance: random.Random) -> None:
        self._mix = mix
        self._chance = chance
        self.is_out = False  # no call reaches AWS

    def calm_down(self) -> None:
        self._mix = CALM
        self.is_out = False

    def fate(self, process: Process, action: str) -> Fate:
        chance, mix = self._chance, self._mix
        there, back = chance.uniform(0.001, 0.02), chance.uniform(0.001, 0.02)
        if self.is_out:
            return Fate(chance.uniform(0.001, 10), back, Fault.REQUEST_LOST)
        if mix.slow and chance.random() < mix.slow:
            there = chance.uniform(1, 15)
        fault = Fault.LATE if mix.late and chance.random() < mix.late else Fault.NONE
        if mix.faults and chance.random() < mix.faults:
            fault = chance.choice(SEVERAL)
        if mix.lost_receives and action == "ReceiveMessage" and chance.random() < mix.lost_receives:
            fault = Fault.ANSWER_LOST
        return Fate(there, back, fault, late=chance.uniform(0.1, 20), lands_anyway=chance.random() < 0.5)

    def before(self, process: Process, fate: Fate) -> None:
        process.pass_moment()

    def after(self, process: Process, fate: Fate) -> None:
        process.pass_moment()
