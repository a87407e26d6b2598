"""A sweep job in ARM: as it was submitted, in REST's own spelling, with what its best trial has left."""

from __future__ import annotations

from typing import Any

from amlocal.emulator.jobs import outputs
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps import request as sweep_request
from amlocal.emulator.jobs.sweeps.records import BEST


def present(record: JobRecord) -> dict[str, Any]:
    """The body of a sweep job.

    Clients compare the names of algorithm, policy and goal letter by letter, so these are as REST writes them
    however they were sent. An output is at the place where the best trial has written it, once there is one.
    """
    body = dict(record.body)
    job = sweep_request.read(body)
    algorithm = body.get("samplingAlgorithm")
    given = algorithm if isinstance(algorithm, dict) else {}
    goal = "Maximize" if job.objective.maximize else "Minimize"
    early = body.get("earlyTermination")
    return {
        **body,
        "objective": {**body["objective"], "goal": goal},
        "samplingAlgorithm": {**given, "samplingAlgorithmType": job.sampling.algorithm.capitalize()},
        "earlyTermination": {**early, "policyType": job.policy.name} if early and job.policy else None,
        "limits": {"jobLimitsType": "Sweep", **(body.get("limits") or {})},
        "inputs": body.get("inputs") or {},
        "outputs": outputs.shown(record, record.properties.get(BEST, "")),
    }
