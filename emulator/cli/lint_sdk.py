"""A job's YAML as azure-ai-ml takes it: the REST body that it would send, and what it refuses.

The SDK is imported here only, and only when a job is linted: that takes seconds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlocal.compat import yaml_places

UNKNOWN = "Unknown field."
_ROUNDS = 30


@dataclass(frozen=True)
class Refusal:
    """One thing that the SDK does not take, by its place in the YAML; `known` are the keys it has there."""

    path: tuple[str | int, ...]
    message: str
    known: Sequence[str] = ()

    @property
    def is_unknown_key(self) -> bool:
        return self.message == UNKNOWN


@dataclass
class Loaded:
    """`properties` of the REST body, None when the file gives none; `kind` is the job's jobType."""

    refusals: list[Refusal] = field(default_factory=list)
    properties: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        return str((self.properties or {}).get("jobType", ""))


def load(document: Mapping[str, Any], file: Path) -> Loaded:
    """The body of a job's YAML. What is refused is noted and left out, so that the rest can be checked."""
    found = Loaded()
    rest = copy.deepcopy(dict(document))
    with _quiet():
        from azure.ai.ml import load_job
        from marshmallow import ValidationError

        for _ in range(_ROUNDS):
            source = io.StringIO(yaml_places.plain(rest))
            try:
                job: Any = load_job(source, relative_origin=str(file))
                found.properties = _body(job)
                return found
            except ValidationError as error:
                refusals = [_with_known(one, document) for one in _refusals(error)]
            except Exception as error:
                # Whatever the SDK raises is its answer to the file.
                refusals = [Refusal((), _first_line(error))]
            found.refusals += refusals
            if not _take_out(rest, refusals):
                return found
    return found


def _body(job: Any) -> dict[str, Any]:
    """The `properties` that the SDK would send, but for what it makes while it uploads."""
    from azure.ai.ml._restclient.arm_ml_service._utils.model_base import SdkJSONEncoder
    from azure.ai.ml.entities import Environment

    class Encoder(SdkJSONEncoder):
        def default(self, o: Any) -> Any:
            try:
                return super().default(o)  # type: ignore[no-untyped-call]
            except TypeError:
                # A part that would be uploaded first, such as a component.
                return str(o)

    # As the SDK does when it submits: a command is a node of a pipeline first.
    job = job._to_job() if hasattr(job, "_to_job") else job
    if isinstance(getattr(job, "environment", None), Environment):
        # It would be registered, and have a name then.
        job.environment = "azureml:unnamed:1"
    text = json.dumps(job._to_rest_object(), cls=Encoder, exclude_readonly=True)
    properties: dict[str, Any] = json.loads(text)["properties"]
    return properties


def _refusals(error: Exception) -> Iterator[Refusal]:
    """Every fault that a chain of errors holds, from the one that still has its structure."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        messages = getattr(one, "messages", None)
        if isinstance(messages, dict) and messages:
            yield from _leaves(messages, ())
            return
        waiting += [one.__cause__, one.__context__]
    yield Refusal((), _first_line(error))


def _with_known(refusal: Refusal, document: Mapping[str, Any]) -> Refusal:
    """An unknown key of an image job with the keys that the SDK knows in its place."""
    if not refusal.is_unknown_key or not str(document.get("task")).startswith("image_"):
        return refusal
    from azure.ai.ml._schema.automl.image_vertical.image_classification import ImageClassificationSchema
    from azure.ai.ml._schema.automl.image_vertical.image_limit_settings import ImageLimitsSchema
    from azure.ai.ml._schema.automl.image_vertical.image_sweep_settings import ImageSweepSettingsSchema

    schemas: dict[tuple[str | int, ...], Any] = {
        (): ImageClassificationSchema,
        ("limits",): ImageLimitsSchema,
        ("sweep",): ImageSweepSettingsSchema,
    }
    schema = schemas.get(refusal.path[:-1])
    if schema is None:
        return refusal
    fields = schema._declared_fields.items()
    return Refusal(refusal.path, refusal.message, [value.data_key or name for name, value in fields])


def _leaves(messages: Any, path: tuple[str | int, ...]) -> Iterator[Refusal]:
    if isinstance(messages, Mapping):
        for key, value in messages.items():
            yield from _leaves(value, path if key == "_schema" else (*path, key))
    elif isinstance(messages, list) and messages:
        # Of the alternatives that a field has, the first is the one that is meant most often.
        first = messages[0]
        if isinstance(first, Mapping):
            yield from _leaves(first, path)
        else:
            yield Refusal(path, str(first))


def _take_out(document: dict[str, Any], refusals: Sequence[Refusal]) -> bool:
    """Removes what was refused; False when that changed nothing."""
    changed = False
    # Backwards, so that the items of a list keep their numbers; of a distribution nothing can be missed.
    paths = {one.path[:3] if one.path[:1] == ("search_space",) else one.path for one in refusals}
    for path in sorted(paths, key=lambda path: [str(step).zfill(9) for step in path], reverse=True):
        place: Any = document
        for step in path[:-1]:
            place = _below(place, step)
        last = path[-1] if path else None
        there = isinstance(place, dict) and last in place
        if there or (isinstance(place, list) and isinstance(last, int) and last < len(place)):
            del place[last]
            changed = True
    return changed


def _below(place: Any, step: str | int) -> Any:
    if isinstance(place, dict):
        return place.get(step)
    if isinstance(place, list) and isinstance(step, int) and 0 <= step < len(place):
        return place[step]
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the SDK's remarks on its own classes, which go to standard error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
