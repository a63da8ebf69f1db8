"""Limiters and fair queues as a pure state machine: the specification of their Lua, in Python."""

from dataclasses import dataclass, field

SHARES = {1: 64, 2: 8, 3: 1}
TURNS = 32


@dataclass
class Queue:
    """A fair queue: start-time fair queueing of groups within three classes."""

    waiting: dict[int, list[tuple[float, str]]] = field(
        default_factory=lambda: {1: [], 2: [], 3: []}
    )
    served: dict[int, float] = field(default_factory=lambda: {1: 0.0, 2: 0.0, 3: 0.0})
    turns: dict[int, float] = field(default_factory=lambda: {1: 0.0, 2: 0.0, 3: 0.0})
    groups: dict[tuple[int, str], float] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def put(self, name: str, turn: tuple[int, float, str]) -> None:
        """Add a request with its class, weight and group."""
        number, weight, group = turn
        start = max(self.served[number], self.groups.get((number, group), 0.0))
        self.groups[number, group] = start + 1 / weight
        self.waiting[number].append((start, name))
        self.waiting[number].sort()

    def remove(self, name: str) -> None:
        """Remove a request that ends."""
        for number, waiting in self.waiting.items():
            self.waiting[number] = [each for each in waiting if each[1] != name]

    def take(self) -> str:
        """Remove and return the one that goes on next."""
        number = min((k for k, waiting in self.waiting.items() if waiting), key=self.turns.get)  # type: ignore[arg-type]
        start, name = self.waiting[number].pop(0)
        turn = self.turns[number]
        self.served[number] = start
        self.turns[number] = turn + 1 / SHARES[number]
        for other, waiting in self.waiting.items():
            if other != number and not waiting:
                self.turns[other] = turn
        return name


@dataclass
class Work:
    """One request: where it is, and which permits it has."""

    name: str
    key: str
    turn: tuple[int, float, str] | None
    status: str = "pending"
    waits: str = ""
    token: str = ""
    leased: bool = False
    attempts: int = 0
    permits: list[str] = field(default_factory=list)


class Stream:
    """A stream whose handler has limits: for each key, for all, and a rate.

    Time stands still: a lease is current or has lapsed, and no token comes back.

    Attributes:
        limits: The count of each kind of limiter, in the order of the permits.
        works: The requests by name.
        entries: The names of those that are in the stream, in order.
        queues: The fair queues that are not empty.
    """

    def __init__(self, limits: dict[str, int]) -> None:
        self.limits = limits
        self.works: dict[str, Work] = {}
        self.entries: list[str] = []
        self.queues: dict[str, Queue] = {}
        self.permits: dict[str, set[str]] = {}
        self.paused: set[str] = set()
        self.tokens = dict.fromkeys((name for name in limits if name.startswith("rate")), 0)

    def limiters(self, work: Work) -> list[str]:
        """The names of a request's limiters, in the order in which it takes their permits."""
        return [name.format(key=work.key) for name in self.limits]

    def _count(self, name: str) -> int:
        if name == "turn":
            return TURNS
        return next(
            count for kind, count in self.limits.items() if name.startswith(kind.partition("{")[0])
        )

    def _needs(self, name: str, holder: str) -> bool:
        work = self.works[holder]
        if name not in work.permits or work.status not in {"pending", "running"}:
            return False
        return work.status == "pending" or work.leased

    def _free(self, name: str) -> int:
        if name.startswith("paused"):
            return 0 if name.removeprefix("paused ") in self.paused else 100
        available = self._count(name) - self.tokens.get(name, 0)
        holders = self.permits.setdefault(name, set())
        if len(holders) >= available:
            # Those whose lease has lapsed are looked at; others keep their permit.
            holders -= {each for each in holders if not self._needs(name, each)}
        return available - len(holders)

    def is_full(self, name: str) -> bool:
        """Whether a limiter lets nobody in, as far as it has looked."""
        return len(self.permits.get(name, ())) >= self._count(name) - self.tokens.get(name, 0)

    def _open(self, name: str) -> None:
        queue = self.queues.get(name)
        if queue is None:
            return
        for _ in range(self._free(name)):
            if not queue:
                break
            work = self.works[queue.take()]
            work.waits = ""
            if not name.startswith("paused"):
                self._permit(work, name)
            self.entries.append(work.name)
        if not queue:
            del self.queues[name]

    def _permit(self, work: Work, name: str) -> None:
        self.permits.setdefault(name, set()).add(work.name)
        if name not in work.permits:
            work.permits.append(name)

    def _leave(self, work: Work, only: str = "") -> None:
        names = [name for name in work.permits if not only or name == only]
        work.permits = [name for name in work.permits if name not in names]
        for name in names:
            self.permits.setdefault(name, set()).discard(work.name)
            self._open(name)

    def _wait(self, work: Work, name: str) -> None:
        work.waits = name
        self.queues.setdefault(name, Queue()).put(work.name, work.turn or (2, 1.0, ""))
        self._open(name)

    def emit(self, name: str, key: str, turn: tuple[int, float, str] | None) -> None:
        """Send a command, with or without a turn."""
        self.works[name] = work = Work(name, key, turn)
        if turn:
            self._wait(work, "turn")
        else:
            self.entries.append(name)

    def _refused_by(self, work: Work) -> str:
        group = work.turn[2] if work.turn else ""
        for target in ("*", "work:do", f"fairness_key={group}", f"key={work.key}"):
            if target in self.paused and target != "fairness_key=":
                return f"paused {target}"
        for name in self.limiters(work):
            if name in work.permits and work.name in self.permits.get(name, ()):
                continue
            self._open(name)
            if name in self.queues or self._free(name) < 1:
                return name
        return ""

    def begin(self, name: str, token: str, *, lapses: bool) -> str:
        """Claim a request that is in the stream: `claimed`, `busy`, or `limited NAME`."""
        work = self.works[name]
        if work.token == token:
            return "claimed"
        if work.status == "running" and work.leased:
            return "busy"
        if work.status == "running":
            self._leave(work)
        refused = self._refused_by(work)
        if refused:
            self.entries.remove(name)
            work.status, work.token, work.leased = "pending", "", False
            if refused.startswith("paused"):
                self._leave(work)
            else:
                for before in self.limiters(work)[: self.limiters(work).index(refused)]:
                    self._permit(work, before)
                self._leave(work, "turn")
            self._wait(work, refused)
            return f"limited {refused}"
        work.status, work.token, work.leased = "running", token, not lapses
        work.attempts += 1
        for limiter in self.limiters(work):
            if limiter.startswith("rate"):
                self.tokens[limiter] += 1
                self._leave(work, limiter)
            else:
                self._permit(work, limiter)
        self._leave(work, "turn")
        return "claimed"

    def finish(self, name: str, token: str) -> str:
        """End a request."""
        work = self.works[name]
        if work.status == "completed" and work.token == token:
            return "ok"
        if work.token != token or work.status != "running":
            return "stale"
        work.status = "completed"
        self._leave(work)
        self.entries.remove(name)
        return "ok"

    def release(self, name: str, token: str) -> str:
        """Give a claim back."""
        work = self.works[name]
        if work.token != token or work.status != "running":
            return "not owned"
        work.token, work.leased = "", False
        self._leave(work)
        return "ok"

    def renew(self, name: str, token: str) -> str:
        """Renew a lease, unless its permits were given to others."""
        work = self.works[name]
        if work.token != token or work.status != "running":
            return "0"
        if not work.leased and any(work.name not in self.permits[each] for each in work.permits):
            return "0"
        work.leased = True
        return "1"

    def cancel(self, name: str) -> str:
        """Cancel a request that has not begun."""
        work = self.works[name]
        if work.status == "pending":
            work.status = "cancelled"
            if work.waits:
                self.queues[work.waits].remove(name)
                work.waits = ""
            self._leave(work)
        return work.status

    def pause(self, target: str) -> None:
        """Pause a target."""
        self.paused.add(target)

    def resume(self, target: str) -> None:
        """Resume a target."""
        self.paused.discard(target)
        self._open(f"paused {target}")
