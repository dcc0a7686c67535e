"""The chunked loss equals the plain one, gradients too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dclm.training.loss import head_loss

IGNORE = 10


def plain(hidden, weight, targets, z_loss):
    """As open_lm writes it, with the mean over all rows."""
    logits = (hidden @ weight.t()).float()
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    return losses.mean() + z_loss * logits.logsumexp(1).square().mean(), losses.mean()


def example():
    torch.manual_seed(0)
    hidden = torch.randn(23, 8)
    weight = torch.randn(11, 8)
    targets = torch.randint(10, (23,))
    targets[[3, 22]] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("chunk_tokens", [1, 5, 23, 100])
@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.1])
def test_equals_the_plain_loss_however_it_is_cut(chunk_tokens: int, z_loss: float) -> None:
    hidden, weight, targets = example()
    ours = head_loss(
        hidden, weight, targets, z_loss=z_loss, ignore=IGNORE, chunk_tokens=chunk_tokens
    )
    gradients = torch.autograd.grad(2 * ours[0], (hidden, weight))
    theirs = plain(hidden, weight, targets, z_loss)
    expected = torch.autograd.grad(2 * theirs[0], (hidden, weight))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-5)


def test_gradient_agrees_with_finite_differences() -> None:
    hidden, weight, targets = example()

    def loss_at(h, w):
        logits = h.double() @ w.double().t()
        losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
        return losses.mean() + 0.1 * logits.logsumexp(1).square().mean()

    ours, _ = head_loss(hidden, weight, targets, z_loss=0.1, ignore=IGNORE, chunk_tokens=7)
    gradient = torch.autograd.grad(ours, hidden)[0]
    step = 1e-5
    for row, column in ((0, 0), (3, 5), (22, 7)):
        moved = torch.zeros_like(hidden, dtype=torch.float64)
        moved[row, column] = step
        h, w = hidden.detach().double(), weight.detach()
        slope = (loss_at(h + moved, w) - loss_at(h - moved, w)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope.item(), abs=2e-7)


def test_means_over_parts_average_to_the_mean_over_the_whole() -> None:
    hidden, weight, targets = example()
    hidden, targets = hidden[:22], targets[:22]
    named = {"z_loss": 0.1, "ignore": IGNORE}
    whole, _ = head_loss(hidden, weight, targets, **named)
    first, _ = head_loss(hidden[:11], weight, targets[:11], **named)
    second, _ = head_loss(hidden[11:], weight, targets[11:], **named)
    assert whole.item() == pytest.approx((first.item() + second.item()) / 2, abs=1e-6)


def test_bfloat16_rounds_logits_and_sums_in_float32() -> None:
    hidden, weight, targets = (t.detach() for t in example())
    hidden, weight = hidden.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_()
    ours, _ = head_loss(hidden, weight, targets, z_loss=1e-4, ignore=IGNORE, chunk_tokens=6)
    gradients = torch.autograd.grad(ours, (hidden, weight))
    theirs, _ = plain(hidden, weight, targets, 1e-4)
    expected = torch.autograd.grad(theirs, (hidden, weight))
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert gradients[0].dtype == gradients[1].dtype == torch.bfloat16
    # One unit in the last place of bfloat16, at the size of these gradients.
    torch.testing.assert_close(gradients, expected, atol=2**-9, rtol=2**-7)


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, weight, targets = example()
    with torch.no_grad():
        loss, _ = head_loss(hidden, weight, targets, z_loss=0.0, ignore=IGNORE)
    assert not loss.requires_grad
