"""Answer many long prompts in a KV budget that holds only two of them whole.

Prompts are compressed into their slots while they are read, so the batch is as large as the number of slots.
Needs SmolLM2-135M: minseek models --get smollm2
"""

from __future__ import annotations

import minseek

FILLER = "The harbor was quiet, and the boats lay in a row along the old wall. "


def main() -> None:
    model = minseek.load("smollm2")
    plan = minseek.plan(model, kv_budget="24MB", cap=128, block=64)
    print(plan)
    prompts = [f"{FILLER * 20}The capital of {country} is" for country in ("France", "Italy", "Japan", "Spain")]
    for done in minseek.generate(model, prompts, plan=plan, max_new_tokens=6):
        print(f"{done.stats.prompt_tokens} tokens in a slot of {plan.slot.capacity}:{done.text!r}")
    print(f"{plan.slots} slots take {plan.kv_bytes / 1e6:.1f} MB, allocated at once")


if __name__ == "__main__":
    main()
