"""The plan: which jobs come of a series. Rules, targets and tags go in, a value comes out; nothing is done here.

The one invariant: a series never vanishes from sight. A plan always holds at least one job, and a series is discarded
only when every rule that could have wanted it was asked and gave a clear answer. What cannot be decided or delivered
becomes one job in `error/` that says why; what can be done goes on beside it. When an operator has mended the
configuration and retries that job, the plan is made again, and `done` keeps it from doing anything twice.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mercure.core.rules import Evaluation, Expression
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import FailStage, Priority

Action = Literal["route", "both", "process", "discard", "notification"]
Outcome = Literal["matched", "not_matched", "failed", "skipped"]

NO_RULE_MATCHED = "no rule matched"
NOTHING_LEFT = "everything that the rules ask for was done before"

_BY_URGENCY = (Priority.URGENT, Priority.NORMAL, Priority.OFFPEAK)
_NOTIFICATION = "notification"


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """A rule as the router needs it.

    `broken` is the reason why the rule cannot be used (its expression does not parse, its entry is not valid). What it
    would have taken goes to `error/`: the series that `expression` matches, or every one when that is None. `targets`
    of a route or both rule must all be reached; `modules` is the chain of a process or both rule, and `process` what
    `task.json` says of it.
    """

    name: str
    expression: Expression | None
    broken: str = ""
    action: Action = "route"
    targets: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    disabled: bool = False
    fallback: bool = False
    level: Literal["series", "study"] = "series"
    modules: tuple[str, ...] = ()
    module_fault: str = ""
    """Why the modules cannot be used, such as one that is not in the configuration; "" when they can."""
    process: Any = None


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job to be made, and the stage it starts in.

    `rules` are those that asked for it; `applied_rule` is the name of the rule when there is only one. A job in
    `processing` keeps its `targets` for the dispatch afterwards. `reason` says why a job is discarded or in error.
    """

    stage: Stage
    action: str
    rules: tuple[str, ...] = ()
    applied_rule: str = ""
    targets: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    fail_stage: FailStage | None = None
    reason: str = ""
    process: Any = None
    """What modules do, as it stands in `task.json`; None for a job of no module."""


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """What one rule answered and why: names of rules and tags only, never the value of a tag.

    `read` are the tags that the expression looked at, `missing` those that it looked for in vain.
    """

    rule: str
    outcome: Outcome
    reason: str = ""
    read: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs of one series, the trace of every rule in the order of the configuration, and the rules that matched.

    `done` are the tokens of what this plan and the plans before it have made into jobs that can succeed. They are
    opaque; hand them to the next `make_plan` of the same series.
    """

    jobs: tuple[PlannedJob, ...]
    trace: tuple[RuleTrace, ...] = ()
    triggered: tuple[str, ...] = ()
    done: tuple[str, ...] = ()


def make_plan(
    tags: Tags,
    rules: Sequence[RoutingRule],
    targets: Mapping[str, str],
    done: Collection[str] = (),
    forced_rule: str = "",
) -> Plan:
    """Decide what becomes of a series. The same values give the same plan. Raises nothing.

    `targets` has every target of the configuration: "" when it can be used, else the reason why not. `done` comes from
    the plan before, when this one is made because an operator retries the job that the other put into `error/`.
    `forced_rule` is a rule that an operator chose: it alone is followed, unasked, even if it is disabled.
    """
    survey = _Survey(tags, done)
    if forced_rule:
        if all(rule.name != forced_rule for rule in rules):
            reason = f"rule {forced_rule!r}, which an operator chose, is not in the configuration"
            unknown = PlannedJob(Stage.ERROR, "none", fail_stage=FailStage.ROUTING, reason=reason)
            return Plan((unknown,), done=tuple(sorted(done)))
        done = ()
        survey.force(rules, forced_rule)
    else:
        survey.ask_all(rules)
    trace = tuple(survey.traces[place] for place in range(len(rules)))
    triggered = tuple(rule.name for rule in survey.matched)
    if survey.discard is not None:
        return Plan((_discarding(survey.discard, survey.failed),), trace, triggered, tuple(sorted(done)))
    draft = _Draft(targets, frozenset(done), list(survey.failed))
    for rule in survey.matched:
        draft.add(rule)
    jobs = draft.jobs()
    return Plan(jobs, trace, triggered, tuple(sorted(draft.done | draft.new)))


_Fault = tuple[RoutingRule, str]
"""A rule that cannot be followed, and the sentence that says why."""


@dataclass(slots=True)
class _Survey:
    """What the rules say. `discard` is the rule that ended the evaluation; it is in `matched`, too."""

    tags: Tags
    done: Collection[str]
    traces: dict[int, RuleTrace] = field(default_factory=dict)
    matched: list[RoutingRule] = field(default_factory=list)
    failed: list[_Fault] = field(default_factory=list)
    discard: RoutingRule | None = None

    def ask_all(self, rules: Sequence[RoutingRule]) -> None:
        """Ask the rules in their order; a discard rule that matches ends it. Fallback rules come last."""
        seen: set[str] = set()
        postponed = []
        for place, rule in enumerate(rules):
            if rule.disabled:
                self._skip(place, rule, "the rule is disabled")
            elif self.discard is not None:
                self._skip(place, rule, f"rule {self.discard.name!r} ended the evaluation")
            elif rule.name in seen and not rule.broken:
                # Two jobs of one rule could not be told apart, and one of them would be taken for done.
                self._fail(place, rule, f"rule {rule.name!r} cannot be used", "another rule has the same name")
            elif rule.fallback:
                postponed.append((place, rule))
            else:
                self._ask(place, rule)
            if not rule.disabled:
                seen.add(rule.name)
        # The last one that matches wins, so it is asked first and hides the others. So does one that fails.
        for place, rule in reversed(postponed):
            if reason := self._why_no_fallback(rule):
                self._skip(place, rule, f"fallback: {reason}")
            else:
                self._ask(place, rule)

    def force(self, rules: Sequence[RoutingRule], name: str) -> None:
        """Take one rule without asking it, and skip all others."""
        for place, rule in enumerate(rules):
            if rule.name != name or self.matched:
                self._skip(place, rule, f"an operator chose rule {name!r}")
            elif rule.broken or rule.expression is None:
                self._fail_unusable(place, rule)
            else:
                self._take(place, RuleTrace(name, "matched", "an operator chose this rule"), rule)

    def _why_no_fallback(self, rule: RoutingRule) -> str:
        """Return why a fallback rule is not needed or may not be used, or ""."""
        if self.matched:
            return "another rule matched"
        if self.failed:
            return "whether another rule matches is not known"
        # One that made jobs of this series before goes on: a target of its own may have been mended since.
        if self.done and _fallback_token(rule) not in self.done:
            return "an earlier plan of this series had jobs"
        return ""

    def _ask(self, place: int, rule: RoutingRule) -> None:
        if rule.expression is None:
            self._fail_unusable(place, rule)
            return
        answer = rule.expression.evaluate(self.tags)
        if rule.broken and answer.outcome != "not_matched":
            self._fail_unusable(place, rule, answer)
        elif answer.outcome == "failed":
            self._fail(place, rule, f"rule {rule.name!r} could not be evaluated", answer.reason, answer)
        else:
            trace = RuleTrace(rule.name, answer.outcome, answer.reason, answer.read, answer.missing)
            if answer.matched:
                self._take(place, trace, rule)
            else:
                self.traces[place] = trace

    def _take(self, place: int, trace: RuleTrace, rule: RoutingRule) -> None:
        self.traces[place] = trace
        self.matched.append(rule)
        # To discard whole studies is not possible yet: such a rule is a fault, and no reason to stop asking.
        if rule.action == "discard" and rule.level == "series":
            self.discard = rule

    def _skip(self, place: int, rule: RoutingRule, reason: str) -> None:
        self.traces[place] = RuleTrace(rule.name, "skipped", reason)

    def _fail_unusable(self, place: int, rule: RoutingRule, answer: Evaluation | None = None) -> None:
        why = rule.broken or "it has no expression"
        if answer is not None and answer.outcome == "failed":
            why = f"{why}; it could not be evaluated: {answer.reason}"
        self._fail(place, rule, f"rule {rule.name!r} cannot be used", why, answer)

    def _fail(self, place: int, rule: RoutingRule, what: str, why: str, answer: Evaluation | None = None) -> None:
        self.failed.append((rule, f"{what}: {why}"))
        read, missing = (answer.read, answer.missing) if answer else ((), ())
        self.traces[place] = RuleTrace(rule.name, "failed", why, read, missing)


def _discarding(rule: RoutingRule, failed: Sequence[_Fault]) -> PlannedJob:
    """Return the discard job, or an error job instead when a rule before it failed: only what is known is discarded."""
    if failed:
        return _error_job(
            (*failed, (rule, f"rule {rule.name!r} discards the series, which waits until this is mended"))
        )
    reason = f"rule {rule.name!r} discards the series"
    return PlannedJob(Stage.DISCARD, "discard", (rule.name,), rule.name, priority=rule.priority, reason=reason)


@dataclass(slots=True)
class _Draft:
    """Gathers the jobs of the rules that matched, and what is wrong with some of them."""

    targets: Mapping[str, str]
    done: frozenset[str]
    faults: list[_Fault]
    rules: list[RoutingRule] = field(default_factory=list)
    new: set[str] = field(default_factory=set)
    single: list[PlannedJob] = field(default_factory=list)
    pooled: dict[str, list[RoutingRule]] = field(default_factory=dict)
    notifying: list[RoutingRule] = field(default_factory=list)

    def add(self, rule: RoutingRule) -> None:
        """Turn a rule that matched into jobs or faults."""
        self.rules.append(rule)
        if fault := _fault_of(rule):
            self.faults.append((rule, f"rule {rule.name!r} {fault}"))
        elif rule.action == "route":
            for target in self._usable(rule, "route:"):
                self.pooled.setdefault(target, []).append(rule)
        elif rule.action == "both":
            # One token for each target: the result still has to reach a target that is mended later.
            if usable := self._usable(rule, f"both:{rule.name}/"):
                self._add_single(rule, usable)
        elif rule.action == "process":
            if self._take(f"process:{rule.name}"):
                self._add_single(rule, ())
        else:
            self.notifying.append(rule)

    def jobs(self) -> tuple[PlannedJob, ...]:
        """Return the jobs; at least one."""
        jobs = [*self.single, *(_route_job(target, rules) for target, rules in self.pooled.items())]
        if self.notifying and not jobs and not self.done:
            self.new.add(_NOTIFICATION)
            jobs.append(_job(Stage.SUCCESS, "notification", self.notifying))
        if self.faults:
            jobs.append(_error_job(self.faults))
        if self.new:
            self.new.update(_fallback_token(rule) for rule in self.rules if rule.fallback)
        return tuple(jobs) or (
            PlannedJob(Stage.DISCARD, "discard", reason=NOTHING_LEFT if self.done else NO_RULE_MATCHED),
        )

    def _usable(self, rule: RoutingRule, prefix: str) -> tuple[str, ...]:
        """Return the targets of a rule that are not done and can be used; note what is wrong with the others."""
        usable = []
        for target in dict.fromkeys(rule.targets):
            token = prefix + target
            if token in self.done:
                continue
            if fault := _target_fault(target, self.targets):
                self.faults.append((rule, f"target {target!r} of rule {rule.name!r} {fault}"))
            else:
                self.new.add(token)
                usable.append(target)
        return tuple(usable)

    def _take(self, token: str) -> bool:
        """Note that this is done by now; False when it was done before."""
        if token in self.done:
            return False
        self.new.add(token)
        return True

    def _add_single(self, rule: RoutingRule, targets: tuple[str, ...]) -> None:
        self.single.append(
            PlannedJob(
                Stage.PROCESSING, rule.action, (rule.name,), rule.name, targets, rule.priority, process=rule.process
            )
        )


def _fault_of(rule: RoutingRule) -> str:
    """Return why a rule cannot be followed whatever the targets are, or ""."""
    if rule.level == "study":
        return "acts on whole studies, which is not possible yet"
    if rule.action in ("route", "both") and not rule.targets:
        return "has no target"
    if rule.action in ("process", "both") and not rule.modules:
        return "has no module"
    if rule.action in ("process", "both") and rule.module_fault:
        return rule.module_fault
    return ""


def _target_fault(target: str, targets: Mapping[str, str]) -> str:
    """Return why nothing can be sent to a target, or ""."""
    if target not in targets:
        return "is not in the configuration"
    return f"cannot be used: {targets[target]}" if targets[target] else ""


def _fallback_token(rule: RoutingRule) -> str:
    return f"fallback:{rule.name}"


def _route_job(target: str, rules: Sequence[RoutingRule]) -> PlannedJob:
    return _job(Stage.OUTGOING, "route", rules, (target,))


def _error_job(faults: Sequence[_Fault]) -> PlannedJob:
    rules = list({rule.name: rule for rule, _ in faults}.values())
    reason = "; ".join(dict.fromkeys(sentence for _, sentence in faults))
    return _job(Stage.ERROR, rules[0].action, rules, fail_stage=FailStage.ROUTING, reason=reason)


def _job(
    stage: Stage,
    action: str,
    rules: Sequence[RoutingRule],
    targets: tuple[str, ...] = (),
    *,
    fail_stage: FailStage | None = None,
    reason: str = "",
) -> PlannedJob:
    """Return a job that belongs to several rules; it is as urgent as the most urgent of them."""
    names = tuple(rule.name for rule in rules)
    priority = min((rule.priority for rule in rules), key=_BY_URGENCY.index)
    return PlannedJob(stage, action, names, names[0] if len(names) == 1 else "", targets, priority, fail_stage, reason)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as it stands in the sealed folder until all its jobs are made."""
    return asdict(plan)
