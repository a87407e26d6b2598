"""Early termination by hand-worked histories, among them the example in Azure's documentation."""

from __future__ import annotations

from typing import Any

import pytest

from amlocal.emulator.jobs.termination import policies
from amlocal.emulator.jobs.termination.bandit import Bandit
from amlocal.emulator.jobs.termination.median_stopping import MedianStopping
from amlocal.emulator.jobs.termination.policies import PolicyError
from amlocal.emulator.jobs.termination.progress import Progress, Schedule
from amlocal.emulator.jobs.termination.truncation_selection import TruncationSelection

EVERY = Schedule()


def trials(*rows: Any, ended: tuple[int, ...] = ()) -> list[Progress]:
    return [Progress(f"t{number}", row, number in ended) for number, row in enumerate(rows)]


def ended_of(policy: Any, all_trials: list[Progress], maximize: bool = True) -> list[str]:
    return [trial.name for trial in all_trials if policy.ends(trial, all_trials, maximize)]


@pytest.mark.parametrize(
    ("interval", "delay", "applied"),
    [
        (1, 0, [1, 2, 3, 4, 5, 6, 7, 8]),
        (0, 0, [1, 2, 3, 4, 5, 6, 7, 8]),
        (1, 5, [5, 6, 7, 8]),
        (2, 6, [6, 8]),
        (3, 0, [3, 6]),
        (3, 4, [6]),
        (2, 1, [2, 4, 6, 8]),
    ],
)
def test_when_a_policy_is_applied(interval: int, delay: int, applied: list[int]) -> None:
    schedule = Schedule(interval, delay)
    assert [step for step in range(9) if schedule.applies(step)] == applied


def test_azures_bandit_example() -> None:
    """Best 0.8, slack_factor 0.2: trials below 0.8 / 1.2 = 0.66 end."""
    policy = Bandit(Schedule(1, 5), slack_factor=0.2)
    assert policy.limit(0.8, True) == pytest.approx(0.8 / 1.2)
    rows = trials([0.1] * 4 + [0.8], [0.1] * 4 + [0.65], [0.1] * 4 + [0.67], [0.66] + [0.1] * 4)
    assert ended_of(policy, rows) == ["t1", "t3"]
    assert policy.ends(rows[1], rows, True) == (
        "bandit: at interval 5 its best is 0.65, below 0.666667; the best of all is 0.8"
    )
    assert ended_of(policy, [Progress(row.name, row.values[:4]) for row in rows]) == []


def test_a_bandit_by_amount_and_the_smaller_the_better() -> None:
    policy = Bandit(EVERY, slack_amount=0.1)
    assert ended_of(policy, trials([0.8], [0.7001], [0.69])) == ["t2"]
    assert ended_of(policy, trials([0.2], [0.2999], [0.31]), maximize=False) == ["t2"]
    ratio = Bandit(EVERY, slack_factor=0.5)
    assert ended_of(ratio, trials([1.0], [1.5], [1.51]), maximize=False) == ["t2"]
    # With a negative best (a log-likelihood) the slack is still slack.
    assert ended_of(ratio, trials([-1.0], [-1.5], [-1.51])) == ["t2"]
    assert ended_of(ratio, trials([-1.5], [-1.0], [-0.9]), maximize=False) == ["t2"]


def test_a_bandit_compares_at_the_same_interval() -> None:
    policy = Bandit(EVERY, slack_factor=0.2)
    # The first trial reached 0.9 at its third interval; at the first it had 0.5.
    rows = trials([0.5, 0.6, 0.9], [0.45])
    assert ended_of(policy, rows) == []
    assert ended_of(policy, trials([0.5, 0.6, 0.9], [0.45, 0.45, 0.45])) == ["t1"]
    # The best so far counts, not the latest.
    assert ended_of(policy, trials([0.5, 0.6, 0.9], [0.45, 0.85, 0.1])) == []
    assert ended_of(policy, trials([0.9], [0.1], ended=(1,))) == []


def test_median_stopping() -> None:
    policy = MedianStopping(EVERY)
    # Running averages at interval 3: 0.5, 0.4, 0.2 (and 0.6 of the one that has ended); median 0.45.
    rows = trials([0.4, 0.5, 0.6], [0.4, 0.4, 0.4], [0.1, 0.2, 0.3], [0.6, 0.6, 0.6, 0.9], ended=(3,))
    assert ended_of(policy, rows) == ["t1", "t2"]
    assert "worse than 0.45, the median of the running averages of 4 trials" in str(
        policy.ends(rows[2], rows, True)
    )
    # A trial that has not come so far is not compared.
    assert ended_of(policy, [*rows[:3], Progress("late", [0.9, 0.9])]) == ["t2"]
    assert ended_of(policy, trials([1.0, 2.0], [3.1, 3.2], [2.6, 3.0]), maximize=False) == ["t1"]
    assert ended_of(policy, trials([0.1, 0.05, 0.01])) == []
    assert ended_of(MedianStopping(Schedule(1, 4)), rows) == []


def test_truncation_selection() -> None:
    policy = TruncationSelection(EVERY, 20)
    rows = trials(*[[0.1 * number] for number in range(1, 11)])
    assert ended_of(policy, rows) == ["t0", "t1"]
    assert ended_of(policy, rows, maximize=False) == ["t8", "t9"]
    # 20 % of four trials are none.
    assert ended_of(policy, rows[:4]) == [] and ended_of(policy, rows[:5]) == ["t0"]
    # Of equal ones the later goes.
    assert ended_of(TruncationSelection(EVERY, 50), trials([0.5], [0.5])) == ["t1"]
    # A trial that came further is compared by what it had at the same interval.
    assert ended_of(TruncationSelection(EVERY, 50), trials([0.2, 0.9], [0.3])) == []
    assert ended_of(TruncationSelection(EVERY, 50), trials([0.4, 0.9], [0.3])) == ["t1"]


def test_finished_trials_count_unless_excluded() -> None:
    rows = trials([0.1], [0.2], [0.3], [0.4], ended=(0, 1))
    assert ended_of(TruncationSelection(EVERY, 50), rows) == []
    assert ended_of(TruncationSelection(EVERY, 50, exclude_finished_jobs=True), rows) == ["t2"]


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize(
    "policy",
    [
        Bandit(EVERY, slack_factor=0.2),
        Bandit(EVERY, slack_amount=0.1),
        MedianStopping(EVERY),
        TruncationSelection(EVERY, 99),
    ],
)
def test_a_trial_alone_goes_on(policy: Any, maximize: bool) -> None:
    for values in ([0.5], [0.9, 0.1], [-0.1, -0.9], [0.0]):
        assert ended_of(policy, trials(values), maximize) == []


def test_the_bodies_of_policies() -> None:
    assert policies.read(None) is None and policies.read({}) is None
    sent = {"policyType": "Bandit", "delayEvaluation": 6, "evaluationInterval": 2, "slackFactor": 0.2}
    assert policies.read({**sent, "slackAmount": 0}) == Bandit(Schedule(2, 6), 0.2, None)
    assert policies.read({"policyType": "median_stopping"}) == MedianStopping(Schedule(1, 0))
    body = {"policyType": "TruncationSelection", "truncationPercentage": 20, "evaluationInterval": 0}
    assert policies.read(body) == TruncationSelection(Schedule(1, 0), 20)
    assert policies.described(policies.read(sent)) == {
        "name": "Bandit",
        "properties": {
            "evaluation_interval": 2,
            "delay_evaluation": 6,
            "slack_factor": 0.2,
            "slack_amount": None,
        },
    }


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"policyType": "lucky"}, "policyType", "must be one of bandit, median_stopping"),
        ({"evaluationInterval": 1}, "policyType", "early_termination is None"),
        ({"policyType": "Bandit"}, "slackFactor", "neither given"),
        ({"policyType": "Bandit", "slackFactor": 0, "slackAmount": 0}, "slackFactor", "neither given"),
        ({"policyType": "Bandit", "slackFactor": 1, "slackAmount": 1}, "slackFactor", "both given"),
        ({"policyType": "Bandit", "slackFactor": -1}, "slackFactor", "slack_factor is -1"),
        ({"policyType": "Bandit", "slackAmount": "x"}, "slackAmount", "slack_amount is 'x'"),
        ({"policyType": "Bandit", "slackAmount": float("nan")}, "slackAmount", "slack_amount is nan"),
        (
            {"policyType": "MedianStopping", "delayEvaluation": -1},
            "delayEvaluation",
            "delay_evaluation is -1",
        ),
        ({"policyType": "MedianStopping", "evaluationInterval": 1.5}, "evaluationInterval", "1.5"),
        ({"policyType": "TruncationSelection"}, "truncationPercentage", "is missing"),
        (
            {"policyType": "TruncationSelection", "truncationPercentage": 100},
            "truncationPercentage",
            "from 1 to 99",
        ),
        (
            {"policyType": "TruncationSelection", "truncationPercentage": 9, "excludeFinishedJobs": 1},
            "excludeFinishedJobs",
            "true or false",
        ),
    ],
)
def test_faults_of_policies(body: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        policies.read(body)
    assert caught.value.field == field
