"""Cross-entropy and z-loss of a head, without ever holding all logits.

    loss = mean over tokens of CE + z_loss * mean over tokens of logsumexp^2        (open_lm)

The head is applied to a few thousand tokens at a time and its gradients are formed on the way, so
the largest array is (chunk, vocab) float32. Rounding is that of a whole head: logits are rounded to
the dtype of the weights, softmax and sums are float32, the gradient of the logits is rounded again
before it meets the weights; the weight's gradient is summed over chunks in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float,
    ignore: int,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean loss and mean cross-entropy, both () float32; gradients flow from the first.

    hidden (tokens, dim), weight (vocab, dim), targets (tokens,) int64. Targets equal to `ignore`
    add nothing to the cross-entropy, but count in its mean and in the z-loss: so means over equal
    parts of a batch average to the mean over the batch, however it is cut.
    """
    if chunk_tokens is None:
        chunk_tokens = 4096 if hidden.is_cuda else 256  # the latter keeps a chunk in cache
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    arguments = (hidden, weight, targets, z_loss, ignore, chunk_tokens, needs_gradient)
    loss, cross_entropy = _HeadLoss.apply(*arguments)
    return loss, cross_entropy


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        ignore: int,
        chunk_tokens: int,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        num_tokens = hidden.shape[0]
        chunk = _compiled_chunk() if hidden.is_cuda else _chunk
        grad_hidden = torch.empty_like(hidden) if needs_gradient else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        sums = hidden.new_zeros(2, dtype=torch.float32)
        for start in range(0, num_tokens, chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = (hidden[part] @ weight.t()).float()
            part_sums, gradient = chunk(logits, targets[part], z_loss, ignore, num_tokens)
            sums += part_sums
            if grad_hidden is not None and grad_weight is not None:
                gradient = gradient.to(hidden.dtype)
                torch.mm(gradient, weight, out=grad_hidden[part])
                _add_product(grad_weight, gradient, hidden[part])
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        sums /= num_tokens
        cross_entropy = sums[0]
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy + z_loss * sums[1], cross_entropy

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, grad_loss: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_hidden * grad_loss, grad_weight * grad_loss, None, None, None, None, None


def _chunk(
    logits: Tensor, targets: Tensor, z_loss: float, ignore: int, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Sums of CE and of logsumexp^2, (2,), and d loss / d logits in the place of the logits.

    The gradient is softmax * (counted + 2 z logsumexp) - counted at the target, over num_tokens.
    One exponential serves both: exp(logits - max) is summed and then scaled.
    """
    targets = targets.unsqueeze(1)
    counted = (targets != ignore).to(logits.dtype)
    chosen = logits.gather(1, targets)
    largest = logits.amax(dim=1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    log_sums = total.log() + largest
    sums = torch.stack((((log_sums - chosen) * counted).sum(), log_sums.square().sum()))
    gradient = logits.mul_((counted + 2 * z_loss * log_sums) / (total * num_tokens))
    return sums, gradient.scatter_add_(1, targets, counted / -num_tokens)


@cache
def _compiled_chunk() -> Callable[..., tuple[Tensor, Tensor]]:
    """The same in three passes over the logits instead of ten; GPUs only, it needs a compiler."""
    return torch.compile(_chunk, dynamic=False)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """total += gradient.T @ hidden, summed in float32."""
    if gradient.dtype == torch.float32:
        total.addmm_(gradient.t(), hidden)
    elif gradient.is_cuda:
        total += torch.mm(gradient.t(), hidden, out_dtype=torch.float32)
    else:
        total.addmm_(gradient.t().float(), hidden.float())
