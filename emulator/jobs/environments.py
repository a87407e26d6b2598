"""Environments of jobs: which Python a job runs in, and how far that Python is what the environment asks for.

In this order: the Python that the setting `environments.interpreters` gives for the environment's name; with
`environments.mode` venv a virtual environment of the conda file's pip part; amlocal's own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from amlocal.emulator.arm import environments
from amlocal.emulator.arm.environments import Definition
from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs import environment_differences as differing
from amlocal.emulator.jobs import environment_venvs, user_log
from amlocal.emulator.jobs.environment_differences import Difference
from amlocal.emulator.jobs.environment_interpreters import Interpreter, InterpreterError, Interpreters
from amlocal.emulator.jobs.environment_pins import Pins, Wanted
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

_LOG = logging.getLogger(__name__)
RESOLVED = "azureml.runtimeEnvironment"
PYTHON = "amlocal.python"
DIFFERENCES = "amlocal.environment_differences"
_SETTING = "environments.interpreters"
# Minor versions of Python 3 looked for on PATH, newest first, and what a patch number can be.
_MINORS = range(15, 7, -1)
_PATCHES = range(40)


@dataclass(frozen=True)
class Plan:
    """How one environment is met. `venv` has the pip lines of the virtual environment to be built, if any."""

    definition: Definition
    python: Path
    version: str
    differences: tuple[Difference, ...] = ()
    lines: tuple[str, ...] = ()
    venv: tuple[str, ...] = ()


class JobEnvironments:
    """Safe from any thread. Only `prepare` takes long."""

    def __init__(self, *, store: Store, folder: DataFolder, settings: Settings, python: str) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings.environments
        self._own = Path(python)
        self._mapped = {name.lower(): path for name, path in settings.environments.interpreters.items()}
        self._interpreters = Interpreters()

    def start(self) -> None:
        """Ask the Pythons that the settings name, so that the first job need not wait for them."""
        if self._mapped:
            self._interpreters.warm(*self._mapped.values())

    def check(self, workspace: Workspace, environment_id: str) -> dict[str, str]:
        """The properties that tell a job's environment. Raises AzureError 400 for one that cannot be met."""
        return self.properties(self.plan(workspace, environment_id))

    def properties(self, plan: Plan) -> dict[str, str]:
        """What tells of a plan among the properties of whatever runs by it."""
        properties = {RESOLVED: plan.definition.label, PYTHON: f"{plan.python} ({plan.version})"}
        if plan.venv:
            properties[PYTHON] = f"virtual environment of Python {plan.version}"
        if plan.differences:
            properties[DIFFERENCES] = differing.told(plan.differences)
            _LOG.info("environment %s: %s", plan.definition.label, properties[DIFFERENCES])
        return properties

    def check_package(self, workspace: Workspace, environment_id: str, package: str, why: str) -> None:
        """Raises AzureError 400 when the Python of an environment lacks `package`, which `why` needs.

        What a virtual environment will hold is known once it is built.
        """
        plan = self.plan(workspace, environment_id)
        if not plan.venv and package not in self._asked(plan.python, plan.definition).installed:
            raise user_error(
                f"{why}, but {plan.python}, in which environment {plan.definition.label} runs, "
                f"has no {package}. Install it there, or give another Python in the setting {_SETTING}.",
                target="environmentId",
            )

    def plan(self, workspace: Workspace, environment_id: str, resolved: str | None = None) -> Plan:
        """How an environment is met; `resolved` is the property of that name, once there is one.

        Raises AzureError 400.
        """
        return self.plan_of(environments.definition(self._store, workspace, environment_id, resolved))

    def plan_of(self, found: Definition) -> Plan:
        """How a definition is met, which need not be stored. Raises AzureError 400."""
        pins = found.pins()
        mapped = self._mapping(found)
        if mapped is not None:
            plan = self._in(found, pins, mapped, f"as the setting {_SETTING} says")
        elif self._settings.mode == "venv" and pins.pip_lines:
            plan = self._virtual(found, pins)
        elif pins == Pins() and str(self._own) == sys.executable:
            version = sys.version.split()[0]
            plan = Plan(found, self._own, version, (), (_runs(found, self._own, version, "of amlocal"),))
        else:
            plan = self._in(found, pins, self._own, "of amlocal")
        unknown = _unknown(found, pins) if mapped is None else ""
        if self._settings.strict:
            self._hold_to(plan, unknown)
        more = [f"{found.label} {unknown}: nothing of it was compared"] if unknown else []
        more += [f"not compared: {line}" for line in pins.not_compared]
        more += [f"differs from {found.label}: {difference}" for difference in plan.differences]
        return Plan(found, plan.python, plan.version, plan.differences, (*plan.lines, *more), plan.venv)

    def prepare(self, plan: Plan, log: Path, abandoned: Callable[[], bool]) -> Path:
        """The Python of a plan, built where it has to be. Raises JobFailure and Abandoned."""
        if not plan.venv:
            return plan.python
        base = self._asked(plan.python, plan.definition)
        name = environment_venvs.key(plan.venv, base)
        if environment_venvs.ready(self._folder, name) is None:
            user_log.append(log, f"builds the virtual environment {name} for {plan.definition.label}")
        python = environment_venvs.build(self._folder, base, plan.venv, log, abandoned)
        built = self._asked(python, plan.definition)
        user_log.append(log, f"runs in {python}")
        if not {"mlflow", "mlflow-skinny"} & built.installed.keys():
            user_log.append(
                log, "mlflow is not among its packages: what the job would log by it will be missing"
            )
        return python

    def folders(self, python: Path) -> list[str]:
        """What PATH begins with, so that `python`, `pip` and other programs are those of a Python."""
        named = python.parent / "python"
        own = named.exists() and named.samefile(python)
        return [str(python.parent)] if own else [str(self._alias(python)), str(python.parent)]

    def _alias(self, python: Path) -> Path:
        """A folder in which `python` and `python3` are a Python that is named otherwise (python3.12)."""
        folder = self._folder.cache / "pythons" / hashlib.sha256(str(python).encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("python", "python3"):
            link = folder / name
            if not link.is_symlink():
                temporary = folder / f".{name}.{os.urandom(4).hex()}"
                temporary.symlink_to(python)
                temporary.replace(link)
        return folder

    def _mapping(self, found: Definition) -> Path | None:
        bare = found.name.lower().removeprefix("azureml-")
        for name in (found.name.lower(), *((bare, f"azureml-{bare}") if found.registry else ())):
            for key in (f"{name}:{found.version.lower()}", name):
                if key in self._mapped:
                    return self._mapped[key]
        return None

    def _asked(self, python: Path, found: Definition) -> Interpreter:
        try:
            return self._interpreters.ask(python)
        except InterpreterError as error:
            raise user_error(
                f"environment {shown(found.label)}: {error}. Mend it, or the setting {_SETTING}.",
                target="environmentId",
            ) from error

    def _in(self, found: Definition, pins: Pins, python: Path, why: str) -> Plan:
        interpreter = self._asked(python, found)
        lines = [_runs(found, python, interpreter.version, why)]
        return Plan(
            found, python, interpreter.version, tuple(differing.between(pins, interpreter)), tuple(lines)
        )

    def _virtual(self, found: Definition, pins: Pins) -> Plan:
        if pins.elsewhere:
            raise user_error(
                f"environment {shown(found.label)}: its conda file has the pip line "
                f"{shown(pins.elsewhere[0])}, but only the conda file's own text is "
                "known. Write the requirements into it.",
                target="environmentId",
            )
        base = self._base(found, pins.python)
        differences = [*differing.of_python(pins, base.version), *differing.not_installed(pins)]
        line = f"environment {found.label} runs in a virtual environment of Python {base.version}"
        return Plan(found, base.python, base.version, tuple(differences), (line,), pins.pip_lines)

    def _base(self, found: Definition, wanted: Wanted | None) -> Interpreter:
        """A Python of the wanted version; where only its patch number is not to be had, of that minor."""
        own = self._asked(self._own, found)
        if wanted is None or wanted.accepts(own.version):
            return own
        near = [own] if _same_minor(wanted, own.version) else []
        for minor in _MINORS:
            path = shutil.which(f"python3.{minor}")
            if path is None or not _same_minor(wanted, f"3.{minor}.0"):
                continue
            try:
                candidate = self._interpreters.ask(Path(path))
            except InterpreterError as error:
                _LOG.info("not used for virtual environments: %s", error)
                continue
            if wanted.accepts(candidate.version):
                return candidate
            near.append(candidate)
        if near:
            return near[0]
        raise user_error(
            f"environment {shown(found.label)} asks for Python {wanted.text}, which this machine does not "
            f"have (amlocal's own is {own.version}). Install it, or give a Python for {found.name} in the "
            f"setting {_SETTING}.",
            target="environmentId",
        )

    def _hold_to(self, plan: Plan, unknown: str) -> None:
        """`environments.strict`: raises AzureError 400 for what differs or cannot be compared."""
        label = plan.definition.label
        if unknown:
            raise user_error(
                f"environment {shown(label)} {unknown}, so it cannot be compared, and the setting "
                f"environments.strict asks for that. Give a Python for it in the setting {_SETTING}.",
                target="environmentId",
            )
        if plan.differences:
            every = "; ".join(map(str, plan.differences))
            raise AzureError(
                400,
                "UserError",
                f"environment {shown(label)} asks for what {plan.python} (Python {plan.version}) does not "
                f"have, and the setting environments.strict refuses that: {every}.",
                target="environmentId",
                details=differing.details(plan.differences),
            )


def merged(given: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """A job's properties: what an earlier job's said of its environment is not true of this one."""
    kept = {name: value for name, value in given.items() if name not in (RESOLVED, PYTHON, DIFFERENCES)}
    return {**kept, **own}


def _runs(found: Definition, python: Path, version: str, why: str) -> str:
    return f"environment {found.label} runs in Python {version} {why}: {python}"


def _unknown(found: Definition, pins: Pins) -> str:
    """Why nothing can be said about what is in an environment; "" when something can."""
    if found.is_host or pins != Pins():
        return ""
    if found.registry:
        if found.curated is None:
            return "is not among the curated environments known here"
        return "is curated, and what is in it is not published"
    if found.properties.get("condaFile"):
        return ""
    if found.properties.get("build"):
        return "is given by a Dockerfile, which is not built here"
    return "is given by an image alone, which is not pulled here"


def _same_minor(wanted: Wanted, version: str) -> bool:
    """Whether some patch of `version`'s minor version will do."""
    minor = ".".join(version.split(".")[:2])
    return any(wanted.accepts(f"{minor}.{patch}") for patch in _PATCHES)
