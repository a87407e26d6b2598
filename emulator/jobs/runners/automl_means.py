"""What the parts of an AutoML job's runner share: the server's stores and settings, and the job as it is read
from its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import caps, computes
from amlocal.emulator.jobs.engines.base import Engine
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import automl_draw, automl_request
from amlocal.emulator.jobs.runners.automl_checkpoint import PINNED, Start, start_of
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import JobFailure
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace


@dataclass(frozen=True)
class Means:
    """`slots` is how many trials this host trains at once."""

    store: Store
    folder: DataFolder
    settings: Settings
    engine: Engine
    resolver: Resolver
    slots: int

    @property
    def weights_dir(self) -> Path:
        """Where weights lie on this machine."""
        return self.settings.weights_dir or self.folder.root / "weights"

    @property
    def cores(self) -> int:
        """Processors that one trial may use."""
        return max(1, self.engine.capacity().cpus // self.slots)

    def device(self, root: JobRecord) -> str:
        """What a user should know who asked for a GPU on a host without one; "" otherwise."""
        if root.compute != computes.GPU_CLUSTER or self.engine.capacity().gpus:
            return ""
        return f"CPU: this host has no GPU, so {computes.GPU_CLUSTER} runs on its processors"

    def read(self, properties: Mapping[str, Any]) -> ImageJob:
        """The job that ARM `properties` define, under the server's caps. Raises AzureError."""
        job = automl_request.read(properties)
        most = caps.trials(self.settings.caps, job.max_trials)
        return replace(job, max_trials=most, max_concurrent=min(job.max_concurrent, most))

    def began(
        self, workspace: Workspace, name: str, job: ImageJob, pinned: str | None = None
    ) -> tuple[ImageJob, Start | None]:
        """The first trial of a job that can be trained, and what it starts from; see `start_of` for `pinned`.

        Raises AzureError.
        """
        return automl_draw.first(
            job, name, lambda trial: start_of(self.store, self.resolver, workspace, trial, pinned)
        )

    def start(self, workspace: Workspace, root: JobRecord, trial: ImageJob) -> tuple[ImageJob, Start | None]:
        """A trial with the model that it trains, and what it starts from. Raises AzureError."""
        return start_of(self.store, self.resolver, workspace, trial, root.properties.get(PINNED))

    def of(self, root: JobRecord) -> ImageJob:
        """The job that was submitted. Raises JobFailure."""
        try:
            return self.read(root.body)
        except AzureError as error:
            raise JobFailure(error.message) from error
