"""Loss of a pass and its gradients, with the logits of a few tokens at a time.

Autograd would keep all logits, and make a whole gradient of the embedding matrix for each of its uses. Here both ends
of the model are differentiated by hand, directly into the existing gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minseek.tune.batches import Batch
from minseek.tune.forward import hidden_states

_LOGIT_BYTES = 32 * 2**20  # float32 logits of one chunk


def loss_sum(model: Any, batch: Batch) -> Tensor:
    """Summed cross-entropy of a batch's targets, float32, without gradients."""
    with torch.no_grad():
        states = hidden_states(model, model.model.embed_tokens(batch.ids)).flatten(0, 1)[batch.target_positions]
        total = torch.zeros((), device=states.device)
        for rows in _chunks(model, len(states)):
            logits = (states[rows] @ model.lm_head.weight.T).float()
            total += torch.nn.functional.cross_entropy(logits, batch.targets[rows], reduction="sum")
        return total


def add_gradients(model: Any, batch: Batch, scale: float) -> Tensor:
    """Run one pass forward and back, and add the gradients of ``scale * loss`` to each trained weight's ``grad``.

    Parameters
    ----------
    model
        A transformers causal language model; weights with ``requires_grad`` are trained, and have a ``grad``.
    scale : float
        One over the targets of the whole step: gradients of passes then sum to that of their mean loss.

    Returns
    -------
    Tensor
        ``scale`` times the summed cross-entropy, float32, without a graph.
    """
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    with torch.no_grad():
        embedded = model.model.embed_tokens(batch.ids)
    embedded.requires_grad_(embedding.requires_grad)
    with torch.enable_grad():
        hidden = hidden_states(model, embedded)
    with torch.no_grad():
        states = hidden.flatten(0, 1)[batch.target_positions]
        backward = torch.empty_like(states) if hidden.requires_grad else None
        loss = _head_gradients(model, head, states, batch.targets, scale, backward)
        if backward is None:
            return loss
        del states
        upstream = torch.zeros_like(hidden)
        upstream.flatten(0, 1)[batch.target_positions] = backward
        del backward
    torch.autograd.backward(hidden, upstream)
    if embedded.grad is not None:
        _add_rows(embedding.grad, batch.ids.flatten(), embedded.grad.flatten(0, 1))
    return loss


def _chunks(model: Any, rows: int) -> list[slice]:
    size = max(8, min(128, _LOGIT_BYTES // (4 * len(model.lm_head.weight))))
    return [slice(start, start + size) for start in range(0, rows, size)]


def _head_gradients(
    model: Any, head: Tensor, states: Tensor, targets: Tensor, scale: float, backward: Tensor | None
) -> Tensor:
    """Loss of states [n, hidden]; adds to the head's gradient and fills `backward`, the gradient of the states."""
    total = torch.zeros((), device=states.device)
    for rows in _chunks(model, len(states)):
        logits = (states[rows] @ head.T).float()
        target_ids = targets[rows, None]
        # In place, step by step: logsumexp and similar functions copy the logits.
        gradient = logits.sub_(logits.amax(-1, keepdim=True))
        chosen = gradient.gather(-1, target_ids)
        sums = gradient.exp_().sum(-1, keepdim=True)
        total += (sums.log() - chosen).sum()
        gradient.div_(sums).scatter_add_(-1, target_ids, torch.full_like(chosen, -1.0))
        gradient = gradient.mul_(scale).to(states.dtype)
        if head.requires_grad:
            assert head.grad is not None
            head.grad.addmm_(gradient.T, states[rows])
        if backward is not None:
            torch.mm(gradient, head, out=backward[rows])
    return total * scale


def _add_rows(total: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Add rows to the rows `ids` of `total`; rows of one id are summed in float32 first and rounded once."""
    ordered, order = ids.sort(stable=True)
    group = torch.zeros_like(ordered)
    group[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    sums = torch.zeros(rows.shape, device=rows.device).index_add_(0, group, rows[order].float())
    # There are fewer groups than rows: the rest adds zeros to the row of token 0.
    group_ids = torch.zeros_like(ordered).scatter_(0, group, ordered)
    total.index_add_(0, group_ids, sums.to(total.dtype))
