"""The slots that a batch wants, and those that a number of bytes holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from minseek.cache import SlotShape, caps_by_layer
from minseek.cache.policies import Policy
from minseek.errors import InputError
from minseek.models import Model

MIN_AUTO_CAP = 256  # lower bound of an automatic cap while one slot of it fits: the number of slots shrinks first


@dataclass(frozen=True)
class SlotRequest:
    """Wanted size and number of slots.

    Attributes
    ----------
    model : Model
    policy : Policy or None
        Eviction policy; None never evicts.
    cap : int or None
        Pairs per head that survive an eviction; None is the largest that fits.
    block : int
        Tokens between two evictions.
    longest : int or None
        Tokens of the longest sequence, if they are known.
    count : int or None
        Number of slots; None is as many as fit.
    context : int
        Largest number of pairs of a slot.
    """

    model: Model
    policy: Policy | None
    cap: int | None
    block: int
    longest: int | None
    count: int | None
    context: int

    @property
    def min_cap(self) -> int:
        """Pairs that the policy always protects, and one more."""
        return 1 if self.policy is None else self.policy.sinks + self.policy.recent + 1

    def shape(self, cap: int) -> SlotShape:
        """A slot with that cap in all layers."""
        policy, model = self.policy, self.model
        queries = model.num_heads if policy is not None and policy.needs_queries else 0
        hidden = model.hidden_size if policy is not None and policy.needs_surprise else 0
        return SlotShape(model.cache_shape, cap, self.block, policy is not None, queries, hidden)

    @property
    def least(self) -> SlotShape:
        """The smallest slot that will do."""
        return self.shape(self.min_cap if self.cap is None else self.cap)

    def choose(self, available: int, *, shrink: bool) -> tuple[SlotShape, int]:
        """The slot and the number of slots that `available` bytes hold; 0 if they do not hold one.

        Parameters
        ----------
        available : int
            Bytes of all slots together.
        shrink : bool
            Take a smaller cap so that all wanted slots fit, rather than fewer slots.

        Raises
        ------
        InputError
            If a cap or block leaves no place, or a slot is longer than the context.
        """
        cap = self.cap
        if cap is None:
            cap = self._fitting_cap(available, self.count if shrink else 1)
        elif cap < self.min_cap:
            raise InputError(f"cap {cap} is below the {self.min_cap} pairs that the policy always protects: give more")
        slot = self.shape(cap)
        if slot.capacity > self.context:
            raise InputError(
                f"a slot of cap {cap} + block {self.block} is longer than the model's context of "
                f"{self.model.max_positions} tokens: give a smaller cap"
            )
        fitting = max(0, available // slot.nbytes)
        return slot, fitting if self.count is None else min(fitting, self.count)

    def by_layer(self, slot: SlotShape) -> SlotShape:
        """The slot with more pairs for induction layers, in the same bytes, if the policy gives them more."""
        policy, model, cap, block = self.policy, self.model, slot.cap, self.block
        max_cap = min(model.max_positions, self.longest or model.max_positions) - block  # larger caps would never fill
        if policy is None or policy.induction_cap_factor <= 1 or max_cap < cap + block:
            return slot
        caps = caps_by_layer(
            *(cap, model.num_layers, model.induction_layers),
            factor=policy.induction_cap_factor,
            block=block,
            min_cap=max(self.min_cap, cap // 2),
            max_cap=max_cap,
        )
        return replace(slot, caps=caps)

    def _fitting_cap(self, available: int, count: int | None) -> int:
        """Largest useful cap at which `count` slots fit; without a policy, the need of the longest."""
        min_cap, longest, most = self.min_cap, self.longest, self.context - self.block
        useful = most if longest is None else min(max(longest - self.block, min_cap), most)
        if useful < min_cap:
            raise InputError(
                f"block {self.block} leaves no cap within the model's context of {self.context} tokens: give less"
            )
        floor = useful if self.policy is None else min(useful, max(min_cap, MIN_AUTO_CAP))

        def fits(size: int, slots: int) -> bool:
            return bool(slots * self.shape(size).nbytes <= available)

        slots = count or 1
        if not fits(floor, slots):
            slots = max(1, available // self.shape(floor).nbytes)
        low, high = (floor, useful) if fits(floor, slots) else (min_cap, floor)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle, slots) else (low, middle - 1)
        return low
