"""Image classifiers of transformers, built from their config's numbers; nothing here asks the hub or runs
code that came with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amlocal.compat import model_config, names
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import loading
from amlocal.trainers.models.network import Network, Stages
from amlocal.trainers.progress import say

_RESIZE = "interpolate_pos_encoding"
# It hands the work to timm and looks its networks up by name.
_NOT_TRANSFORMERS_OWN = "timm_wrapper"


def build(row: names.Model, classes: int, weights: Path | None, image_size: int) -> Network:
    """Build a network with a head for `classes` and load `weights` (safetensors, published names) when given.

    What the network is stands in `row.config`, else in the config.json beside `weights`. Raises TrainingError
    when it stands nowhere, is no image classifier of transformers, or does not fit the file.
    """
    facts = _facts(row, weights)
    try:
        facts = _with_default_size(facts)
        if not facts.takes(image_size):
            raise TrainingError(
                f"{row.name} takes images of {facts.image_size} pixels only; training_crop_size, "
                f"validation_crop_size and validation_resize_size must be that, not {image_size}"
            )
        module = _build(facts, classes, weights, row)
    except TrainingError:
        raise
    except Exception as error:
        # What a class of transformers raises for numbers that do not fit is its own affair.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrainingError(f"{row.name} ({facts.architecture}) cannot be built: {reason}") from error
    _index_positions(module)
    _take_and_give_tensors(module, resize=facts.image_size not in (None, image_size))
    side = image_size if facts.image_size is not None else None
    return Network(module, facts.mean, facts.std, _stages(module), side, facts.to_json())


def _index_positions(module: Any) -> None:
    """BEiT's index of positions is made at the first use and kept for all networks of this process; made
    while one scores, in inference mode, it would be of no use to one that is trained afterwards."""
    with torch.inference_mode(False):
        for part in module.modules():
            if hasattr(part, "generate_relative_position_index"):
                part.generate_relative_position_index(part.window_size)


def _facts(row: names.Model, weights: Path | None) -> model_config.Facts:
    if row.config is not None and row.mean is not None and row.std is not None:
        return model_config.Facts(row.architecture, row.config, row.mean, row.std, row.image_size)
    if weights is None:
        raise TrainingError(
            f"{row.name} is not in amlocal's table, so its config.json is needed to build it; put it beside "
            f"the weights, at {Path('<weights folder>', row.weights).with_name(model_config.CONFIG)}"
        )
    try:
        return model_config.read(weights.parent, row.name)
    except names.BadParameter as error:
        raise TrainingError(str(error)) from error


def _build(facts: model_config.Facts, classes: int, weights: Path | None, row: names.Model) -> Any:
    kind = _class(facts)
    module = kind(_config(facts, classes))
    if weights is None:
        return module
    tensors = loading.read(weights)
    # Published files carry older names for many tensors; transformers knows what each is called now.
    loaded, report = kind.from_pretrained(
        None,
        config=_config(facts, classes),
        state_dict=tensors,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    head = _head(kind, facts, classes)
    missing = sorted(set(report["missing_keys"]) - head)
    alien = sorted({_name(entry) for entry in report["mismatched_keys"]} - head)
    if missing or alien:
        raise TrainingError(
            f"{weights} does not fit {row.name} ({facts.architecture}): {len(missing)} tensors are missing "
            f"and {len(alien)} have another shape, e.g. {(missing + alien)[0]}"
        )
    if report["unexpected_keys"]:
        unused = sorted(report["unexpected_keys"])
        say(f"{len(unused)} tensors of {weights} are not part of the classifier, e.g. {unused[0]}")
    # The head is always new: the file's classes are not the trial's, even when their number happens to agree.
    fresh = module.state_dict()
    loaded.load_state_dict({name: fresh[name] for name in head}, strict=False)
    return loaded.train()


def _name(entry: Any) -> str:
    return str(entry[0]) if isinstance(entry, tuple | list) else str(entry)


def _class(facts: model_config.Facts) -> Any:
    """The class of transformers that the config names, if it belongs to the config's model_type."""
    try:
        import transformers
    except ImportError as error:
        raise TrainingError(
            "Hugging Face models need the package transformers: pip install 'amlocal[hf]'"
        ) from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    kind = facts.config.get("model_type")
    fitting = KNOWN.get(kind, ()) if kind != _NOT_TRANSFORMERS_OWN else ()
    fitting = (fitting,) if isinstance(fitting, str) else fitting
    if facts.architecture not in fitting:
        some = f"; for model_type {kind!r} that is {' or '.join(fitting)}" if fitting else ""
        raise TrainingError(
            f"{facts.architecture} with model_type {kind!r} is no image classifier of the installed "
            f"transformers {transformers.__version__}{some}"
        )
    # Its report on loading repeats at length what is checked here.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, facts.architecture)


def _config(facts: model_config.Facts, classes: int) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    numbers = {key: value for key, value in facts.config.items() if key != "model_type"}
    return CONFIG_MAPPING[facts.config["model_type"]](**numbers, num_labels=classes, return_dict=True)


def _with_default_size(facts: model_config.Facts) -> model_config.Facts:
    """A config.json need not say what is the architecture's default."""
    if facts.image_size is not None:
        return facts
    _class(facts)
    own = getattr(_config(facts, 2), "image_size", None)
    return replace(facts, image_size=own) if isinstance(own, int) else facts


def _head(kind: Any, facts: model_config.Facts, classes: int) -> set[str]:
    """The tensors whose shape depends on the number of classes."""

    def shapes(number: int) -> Mapping[str, Any]:
        with torch.device("meta"):
            return {name: t.shape for name, t in kind(_config(facts, number)).state_dict().items()}

    one, other = shapes(classes), shapes(classes + 1)
    return {name for name, shape in one.items() if other[name] != shape}


def _take_and_give_tensors(module: nn.Module, *, resize: bool) -> None:
    """Let module(images) answer with the logits alone; `resize` fits the position embedding to other sizes.

    As hooks on the network itself and not as a network around it, so that its tensors keep the names under
    which transformers can load them.
    """
    more = {_RESIZE: True} if resize and _RESIZE in _parameters(module) else {}
    module.register_forward_pre_hook(_Named(more), with_kwargs=True)
    module.register_forward_hook(_logits)


class _Named:
    """Hands the images over by name: not every classifier has them first."""

    def __init__(self, more: Mapping[str, Any]) -> None:
        self._more = more

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"pixel_values": args[0], **self._more, **kwargs}


def _logits(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
    found: Tensor = output.logits
    return found


def _parameters(module: nn.Module) -> set[str]:
    import inspect

    return set(inspect.signature(module.forward).parameters)


def _stages(module: Any) -> Stages:
    """The embeddings, then the encoder's layers (Swin's and convolutional networks': its stages)."""
    base: nn.Module = getattr(module, module.base_model_prefix, module)
    children = list(base.children())
    while len(children) == 1 and not isinstance(base, nn.ModuleList):
        base = children[0]
        children = list(base.children())
    if isinstance(base, nn.ModuleList):
        return tuple((stage,) for stage in base)
    layers = next(filter(None, map(_layers, children[1:])), [])
    return ((children[0],), *((layer,) for layer in layers))


def _layers(part: nn.Module) -> list[nn.Module]:
    """The items of the list of modules that lies nearest to the top of `part`; empty where there is none."""
    level = [part]
    while level:
        for candidate in level:
            if isinstance(candidate, nn.ModuleList) and len(candidate):
                return list(candidate)
        level = [child for candidate in level for child in candidate.children()]
    return []
