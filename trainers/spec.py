"""What one trial is asked to do: spec.json, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError

SCHEMA = 1
MULTILABEL = "image-classification-multilabel"
VERBOSITIES = ("NotSet", "Debug", "Info", "Warning", "Error", "Critical")


@dataclass(frozen=True)
class Start:
    """An earlier run to go on from: its weights, and its labels where they are known."""

    run_id: str
    model_name: str
    weights: Path
    labels: Path | None


@dataclass(frozen=True)
class Spec:
    """A trial. `parameters` holds every training parameter, defaults filled in; `given` only the user's.

    `cache_sizes`: the largest size, by parameter, among the trials that share decoded training images.
    """

    run_id: str
    task: str
    primary_metric: str
    model: names.Model
    parameters: Mapping[str, Any]
    given: frozenset[str]
    advanced: Mapping[str, Any]
    train_manifest: Path
    validation_manifest: Path | None
    validation_data_size: float
    data_report: Path | None
    artifacts_dir: Path
    state_dir: Path
    cache_dir: Path
    weights_dir: Path | None
    missing_weights: str = "error"
    attempt: int = 1
    notices: tuple[str, ...] = field(default=())
    ignored: tuple[str, ...] = field(default=())
    start: Start | None = None
    node_count: int = 1
    cache_max_gb: float | None = None
    log_verbosity: str = "Info"
    cache_sizes: Mapping[str, int] = field(default_factory=dict)

    def cached(self) -> dict[str, Any]:
        """The parameters of the largest trial that shares decoded training images with this one."""
        sizes = {name: size for name, size in self.cache_sizes.items() if self.parameters.get(name)}
        return {**self.parameters, **{k: max(size, self.parameters[k]) for k, size in sizes.items()}}

    @property
    def pretrained(self) -> bool:
        """False only when advanced_settings says so."""
        return self.advanced.get("pretrained", True) is not False

    @property
    def multilabel(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.task == MULTILABEL

    @property
    def fast_path(self) -> bool:
        """False only when advanced_settings says so: a plain PyTorch step, to compare the numbers with."""
        return self.advanced.get("fast_path", True) is not False

    @property
    def stream(self) -> bool:
        """Whether images are read while training goes on; only a literal true counts (Azure's rule)."""
        return self.advanced.get("stream_image_files") is True


def load(path: Path) -> Spec:
    """Read and check a spec file. Raises TrainingError naming the field."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"cannot read the spec {path}: {error.strerror}") from error
    except ValueError as error:
        raise TrainingError(f"the spec {path} is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise TrainingError(f"the spec {path} must be a JSON object with schema {SCHEMA}")
    try:
        return _spec(raw)
    except KeyError as error:
        raise TrainingError(f"the spec {path} lacks the field {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"the spec {path} cannot be used: {error}") from error


def _spec(raw: Mapping[str, Any]) -> Spec:
    task = names.task(raw["task"]).name
    given = dict(raw.get("parameters") or {})
    name = given.pop("model_name", None) or names.default_model(task)
    model = names.model(task, name, _optional(raw, "weights_dir"))
    advanced, notices = _advanced(raw, given)
    parameters = names.effective(task, model.name, given)
    notices += names.apply_size_rules(model, parameters, given)
    notices += names.without_effect(task, model.name, given)
    if raw.get("missing_weights", "error") not in ("error", "random"):
        raise ValueError(f"missing_weights is {raw['missing_weights']!r}; it must be error or random")
    verbosity = raw.get("log_verbosity") or "Info"
    if verbosity not in VERBOSITIES:
        raise ValueError(f"log_verbosity is {verbosity!r}; it must be one of {', '.join(VERBOSITIES)}")
    nodes = raw.get("node_count", 1)
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
        raise ValueError(f"node_count is {nodes!r}; it must be a whole number of at least 1")
    size = raw.get("validation_data_size") or 0.2
    if not 0 < size < 1:
        raise ValueError(f"validation_data_size is {size}; it must lie between 0 and 1")
    return Spec(
        run_id=str(raw["run_id"]),
        task=task,
        primary_metric=names.primary_metric(task, raw["primary_metric"]).logged,
        model=model,
        parameters=parameters,
        given=frozenset(given),
        advanced=advanced,
        train_manifest=Path(raw["train_manifest"]),
        validation_manifest=_optional(raw, "validation_manifest"),
        validation_data_size=float(size),
        data_report=_optional(raw, "data_report"),
        artifacts_dir=Path(raw["artifacts_dir"]),
        state_dir=Path(raw["state_dir"]),
        cache_dir=Path(raw["cache_dir"]),
        weights_dir=_optional(raw, "weights_dir"),
        missing_weights=raw.get("missing_weights", "error"),
        attempt=int(raw.get("attempt", 1)),
        notices=tuple(notices),
        ignored=tuple(raw.get("ignored") or ()),
        start=_start(raw.get("start")),
        node_count=nodes,
        cache_max_gb=raw.get("cache_max_gb"),
        log_verbosity=verbosity,
        cache_sizes=_sizes(raw.get("cache_sizes")),
    )


def _sizes(raw: Any) -> dict[str, int]:
    sizes = dict(raw or {})
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"cache_sizes: {name} is {size!r}; it must be a whole number of at least 1")
    return sizes


def _start(raw: Mapping[str, Any] | None) -> Start | None:
    if raw is None:
        return None
    labels = _optional(raw, "labels")
    return Start(str(raw["run_id"]), str(raw["model_name"]), Path(raw["weights"]), labels)


def _advanced(raw: Mapping[str, Any], given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    settings, warning = names.advanced_settings(given.pop("advanced_settings", None))
    settings |= raw.get("advanced_settings") or {}
    return settings, [warning] if warning else []


def _optional(raw: Mapping[str, Any], key: str) -> Path | None:
    return Path(raw[key]) if raw.get(key) else None
