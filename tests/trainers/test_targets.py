"""One class or many labels per image: targets, loss, probabilities and the weights of rare classes."""

from __future__ import annotations

import math

import pytest
import torch

from amlocal.trainers.tasks.targets import ManyLabels, OneClass, imbalance, targets

LABELS = ["a", "b", "c"]


def test_each_task_has_its_kind() -> None:
    assert isinstance(targets(True), ManyLabels)
    assert isinstance(targets(False), OneClass)


def test_one_class_each() -> None:
    kind = OneClass()
    truth = kind.tensor([("b",), ("a",), ("b",)], LABELS)
    assert truth.tolist() == [1, 0, 1] and truth.dtype == torch.int64
    assert kind.counts(truth, 3).tolist() == [1, 2, 0]
    outputs = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    by_hand = [
        -math.log(math.exp(row[int(goal)]) / sum(math.exp(value) for value in row))
        for row, goal in zip(outputs.tolist(), truth, strict=True)
    ]
    assert kind.loss(outputs, truth).item() == pytest.approx(sum(by_hand) / 3)
    assert kind.probabilities(outputs).sum(1).tolist() == pytest.approx([1.0, 1.0, 1.0])
    weights = torch.tensor([1.0, 3.0, 1.0])
    weighted = (3 * by_hand[0] + by_hand[1] + 3 * by_hand[2]) / 7
    assert kind.loss(outputs, truth, weights).item() == pytest.approx(weighted)


def test_any_number_of_labels() -> None:
    kind = ManyLabels()
    truth = kind.tensor([("a", "c"), (), ("c",)], LABELS)
    assert truth.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert kind.counts(truth, 3).tolist() == [1, 0, 2]
    outputs = torch.tensor([[0.0, -1.0, 2.0], [0.5, 0.5, 0.5], [-3.0, 0.0, 1.0]])
    assert kind.probabilities(outputs)[0].tolist() == pytest.approx(
        [1 / (1 + math.exp(-value)) for value in (0.0, -1.0, 2.0)]
    )
    p = 1 / (1 + (-outputs).exp())
    by_hand = -(truth * p.log() + (1 - truth) * (1 - p).log())
    assert kind.loss(outputs, truth).item() == pytest.approx(by_hand.mean().item())
    heavier = -(truth * 2.0 * p.log() + (1 - truth) * (1 - p).log())
    assert kind.loss(outputs, truth, torch.full((3,), 2.0)).item() == pytest.approx(heavier.mean().item())


def many(counts: list[int]) -> torch.Tensor:
    return torch.tensor([number for number, count in enumerate(counts) for _ in range(count)])


def test_weights_of_classes_apply_from_an_imbalance_of_three() -> None:
    kind = OneClass()
    assert kind.weights(many([100, 25]), 2, 0) is None
    assert kind.weights(many([74, 25]), 2, 1) is None
    assert imbalance(torch.tensor([74, 25])) == 2
    root = kind.weights(many([100, 25]), 3, 1)
    full = kind.weights(many([100, 25]), 3, 2)
    assert root is not None and full is not None
    assert root.tolist() == pytest.approx([0.1, 0.2, 0.0])
    assert full.tolist() == pytest.approx([0.01, 0.04, 0.0])


def test_weights_of_labels_are_images_without_per_image_with() -> None:
    truth = torch.zeros(100, 3)
    truth[:60, 0] = 1
    truth[:20, 1] = 1
    kind = ManyLabels()
    full = kind.weights(truth, 3, 2)
    root = kind.weights(truth, 3, 1)
    assert full is not None and root is not None
    assert full.tolist() == pytest.approx([40 / 60, 80 / 20, 0.0])
    assert root.tolist() == pytest.approx([math.sqrt(40 / 60), 2.0, 0.0])
    assert kind.weights(truth[:, :1], 1, 2) is None
