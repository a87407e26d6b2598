"""Which image sizes a model really takes, whatever was asked for."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Any

from amlocal.compat.image_tasks import BadParameter, table
from amlocal.compat.model_rows import HUGGINGFACE, Model

_TRAINING, _VALIDATION, _RESIZE = "training_crop_size", "validation_crop_size", "validation_resize_size"
_SERESNEXT = {_TRAINING: 224, _VALIDATION: 224, _RESIZE: 256}
_IMAGE = "image_size"
_IOU = "validation_iou_threshold"
_STRIDE = 32
_LEAST_IOU = 0.1
_PATCH = 16
_DEFAULT_SIDE = 224


def apply_size_rules(row: Model, values: MutableMapping[str, Any], given: Collection[str] = ()) -> list[str]:
    """Change the three sizes in `values` to what the model takes; returns a notice for each change.

    Azure's rules: a ViT is built for one size, the validation crop; seresnext takes 256/224/224 whatever is
    asked for; a Hugging Face model gets images of one size, training_crop_size, resized and not cropped
    further for validation. A Hugging Face model whose config.json gives a size takes that one unless
    training_crop_size is in `given`, and always where its architecture has no other. Of detectors, yolov5
    takes an image_size that is a multiple of 32, and validation_iou_threshold is at least 0.1. Raises
    BadParameter for a size below one patch.
    """
    if _TRAINING not in values:
        return _of_detector(row, values)
    if row.family == "seresnext":
        return _set(values, _SERESNEXT, f"{row.name} always takes")
    if row.family == "vit":
        _check_patch(_VALIDATION, values)
        return _set(values, {_TRAINING: values[_VALIDATION]}, f"{row.name} is built for one size and takes")
    if row.builder != HUGGINGFACE:
        return []
    side, why = _side(row, values, given)
    return _set(values, dict.fromkeys((_TRAINING, _VALIDATION, _RESIZE), side), f"{row.name} {why}")


def _of_detector(row: Model, values: MutableMapping[str, Any]) -> list[str]:
    notices = []
    if _IOU in values and values[_IOU] < _LEAST_IOU:
        notices.append(f"{_IOU} {values[_IOU]:g} is below the least that counts: {_LEAST_IOU} is taken")
        values[_IOU] = _LEAST_IOU
    if row.builder == "yolo":
        side = -(-values[_IMAGE] // _STRIDE) * _STRIDE
        notices += _set(values, {_IMAGE: side}, f"{row.name} takes multiples of {_STRIDE}:")
    return notices


def _side(row: Model, values: MutableMapping[str, Any], given: Collection[str]) -> tuple[int, str]:
    asked = int(values[_TRAINING])
    if row.image_size is None or asked == row.image_size:
        return asked, "is fed images of one size and takes"
    if (row.config or {}).get("model_type") not in table("models.toml")[HUGGINGFACE]["any_size"]:
        return row.image_size, "takes images of its own size only:"
    if _TRAINING not in given and asked == _DEFAULT_SIDE:
        return row.image_size, "takes its own size:"
    patch = (row.config or {}).get("patch_size", _PATCH)
    _check_patch(_TRAINING, values, patch if isinstance(patch, int) else _PATCH)
    return asked, "is fed images of one size and takes"


def _check_patch(name: str, values: MutableMapping[str, Any], patch: int = _PATCH) -> None:
    if values[name] < patch:
        raise BadParameter(name, values[name], f"at least {patch}, the side of one patch of the model")


def _set(values: MutableMapping[str, Any], wanted: dict[str, int], subject: str) -> list[str]:
    changed = {name: side for name, side in wanted.items() if values[name] != side}
    if not changed:
        return []
    was = ", ".join(f"{name} {values[name]}" for name in changed)
    values.update(changed)
    now = ", ".join(f"{name} {side}" for name, side in changed.items())
    return [f"{subject} {now} (instead of {was})"]
