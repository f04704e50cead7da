"""Losses against plain computations of the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rt_seg_ros.training.losses import HeadLosses, class_weights, make_loss

KINDS = ("cross_entropy", "ohem", "focal", "sigmoid_focal")


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    truth = torch.randint(0, 5, (2, 8, 10))
    truth[:, :3] = 255
    return torch.randn(2, 5, 8, 10), truth


@pytest.mark.parametrize("kind", KINDS)
def test_void_counts_for_nothing(batch, kind):
    logits, truth = batch
    loss = make_loss(kind, min_share=0.01)
    logits = logits.clone().requires_grad_()
    value = loss(logits, truth)
    value.backward()
    assert (logits.grad[:, :, :3] == 0).all() and logits.grad[:, :, 3:].abs().sum() > 0
    changed = logits.detach().clone()
    changed[:, :, :3] += 7
    torch.testing.assert_close(loss(changed, truth), value.detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_labels_gives_zero_with_a_gradient(batch, kind, weighted):
    logits = batch[0].clone().requires_grad_()
    value = make_loss(kind, torch.ones(5) if weighted else None)(logits, torch.full((2, 8, 10), 255))
    value.backward()
    assert value.item() == 0 and logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["focal", "sigmoid_focal"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_pixel_that_is_certain_has_a_gradient(kind, gamma):
    truth = torch.tensor([[[0, 255], [1, 0]]])
    logits = torch.full((1, 2, 2, 2), -120.0)
    logits[0, 0] = 120.0
    logits.requires_grad_()
    make_loss(kind, gamma=gamma)(logits, truth).backward()
    assert logits.grad.isfinite().all() and logits.grad[0, :, 1, 0].abs().sum() > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy_is_torchs(batch, smoothing):
    logits, truth = batch
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    loss = make_loss("cross_entropy", weights)
    torch.testing.assert_close(loss(logits, truth), F.cross_entropy(logits, truth, weights, ignore_index=255))
    plain = F.cross_entropy(logits, truth, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(make_loss("cross_entropy", label_smoothing=smoothing)(logits, truth), plain)


def test_ohem_takes_the_unsure_pixels_and_a_least_share(batch):
    logits, truth = batch
    each = F.cross_entropy(logits, truth, ignore_index=255, reduction="none")[truth != 255]
    unsure = each[each >= -math.log(0.5)]
    value = make_loss("ohem", threshold=0.5, min_share=0.01)(logits, truth)
    torch.testing.assert_close(value, unsure.mean())
    worst = each.sort(descending=True).values[: truth.numel() // 4]
    value = make_loss("ohem", threshold=1e-9, min_share=0.25)(logits, truth)  # nobody is that unsure
    torch.testing.assert_close(value, worst.mean())


def test_focal(batch):
    logits, truth = batch
    valid = truth != 255
    p = logits.softmax(1).gather(1, truth.clamp(max=4)[:, None])[:, 0]
    expected = -((1 - p) ** 2 * p.log())[valid].mean()
    torch.testing.assert_close(make_loss("focal", gamma=2.0)(logits, truth), expected)
    plain = F.cross_entropy(logits, truth, ignore_index=255)
    torch.testing.assert_close(make_loss("focal", gamma=0.0)(logits, truth), plain)


def test_sigmoid_focal(batch):
    logits, truth = batch
    p = logits.sigmoid()
    target = F.one_hot(truth.clamp(max=4), 5).permute(0, 3, 1, 2)
    right = torch.where(target == 1, p, 1 - p)
    balance = torch.where(target == 1, 0.25, 0.75)
    each = (-balance * (1 - right) ** 2 * right.log()).mean(1)
    value = make_loss("sigmoid_focal", gamma=2.0, alpha=0.25)(logits, truth)
    torch.testing.assert_close(value, each[truth != 255].mean())


@pytest.mark.parametrize("kind", ["ohem", "focal"])
def test_class_weights_scale_what_each_pixel_counts(batch, kind):
    logits, truth = batch
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    entropy = F.cross_entropy(logits, truth, ignore_index=255, reduction="none")[truth != 255]
    factor, p = weights[truth[truth != 255]], torch.exp(-entropy)
    if kind == "focal":
        each = (1 - p) ** 2 * entropy
    else:
        each, factor = entropy, factor * (p <= 0.5)
    value = make_loss(kind, weights, threshold=0.5, min_share=0.01, gamma=2.0)(logits, truth)
    torch.testing.assert_close(value, (each * factor).sum() / factor.sum())


def test_class_weights_are_enets():
    shares = np.array([0.5, 0.3, 0.0, 0.2])
    np.testing.assert_allclose(class_weights(shares * 1000), 1 / np.log(1.1 + shares), rtol=1e-6)


def test_heads_are_summed_by_weight(batch):
    logits, truth = batch
    one, two = make_loss("cross_entropy"), make_loss("sigmoid_focal")
    both = HeadLosses(one, two, [0.5, 2.0])
    torch.testing.assert_close(
        both([logits, logits + 1, -logits], truth),
        one(logits, truth) + 0.5 * two(logits + 1, truth) + 2 * two(-logits, truth),
    )
    with pytest.raises(ValueError, match="1 auxiliary heads, but 2 weights"):
        both([logits, logits], truth)


def test_unknown_loss():
    with pytest.raises(ValueError, match="ohem"):
        make_loss("dice")
