"""Quality at an eighth of the cache: recall of hidden facts, and perplexity, for every policy (SmolLM2-135M).

    python bench/quality.py [--only POLICY …] [--prompts N] [--report]
    python bench/quality.py --caps 256 354 512 1024     # perplexity and facts of the default policy by cap

Without --only, the full cache and the default policy answer 100 prompts of each kind, the others 20. Wordings and
texts are those of `needles.REPORT`; the default policy was tuned on `needles.TUNE` and other texts.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from common import kept, machine, table, write
from needles import REPORT, needle, text

import minseek
from minseek.cache.policies import POLICIES, Policy
from minseek.decode import Sampling
from minseek.engine import Engine, Generation
from minseek.engine.plan import DEFAULT_POLICY
from minseek.models.forward.chunk import SequenceChunk

KINDS = {  # haystack, facts hidden in it, tokens, cap: an eighth
    "filler, one": ("filler1", 1, 2000, 256),
    "filler, four": ("filler1", 4, 2000, 256),
    "filler, four, 4,000 tokens": ("filler1", 4, 4000, 512),
    "GPL-3, one": ("GPL-3", 1, 2000, 256),
    "GPL-3, four": ("GPL-3", 4, 2000, 256),
    "GPL-3, four, 4,000 tokens": ("GPL-3", 4, 4000, 512),
    "Python reference, one": ("python", 1, 2000, 256),
}
TEXTS = {"GPL-3": (0,), "GFDL-1.3": (0,)}
READ = 4000  # tokens of each text; perplexity is over those from 1,000 on
AGREE = 32  # tokens of a continuation compared with the full cache's
GREEDY = Sampling(temperature=0)


def answers(model: minseek.Model, kind: str, policy: Policy | None, prompts: int, cap: int | None = None) -> list[bool]:
    """True for each prompt whose fact is recalled; the default cap is an eighth of the prompt."""
    haystack, facts, tokens, eighth = KINDS[kind]
    cap = cap or eighth
    needles = [
        needle(model.tokenizer, haystack=haystack, tokens=tokens, facts=facts, wordings=REPORT, seed=seed)
        for seed in range(prompts)
    ]
    encoded = [model.encode(n.prompt) for n in needles]
    if policy is None:
        plan = minseek.plan(model, policy=None, lengths=[len(p) + 12 for p in encoded], sequences=8)
    else:
        plan = minseek.plan(model, kv_budget=10**10, cap=cap, policy=policy, sequences=16)
    jobs = [Generation(model, p, max_new_tokens=12, sampling=GREEDY, evicts=policy is not None) for p in encoded]
    for _ in Engine(model, plan).run(jobs):
        pass
    recalled = [job.completion().text.strip().lower() for job in jobs]
    return [text.startswith(n.answer.lower()) for text, n in zip(recalled, needles, strict=True)]


def perplexity(model: minseek.Model, ids: list[int], policy: Policy | None, cap: int = 512) -> float:
    """Perplexity of the tokens from 1,000 on, each predicted from the pairs that the policy kept."""
    plan = minseek.plan(model, kv_budget=10**10, cap=cap if policy else len(ids), policy=policy, sequences=1)
    (slot,) = model.make_slot_pool(plan.slot, 1, window=policy.window if policy else 0).slots
    loss, count, start = 0.0, 0, 0
    while start < len(ids) - 1:
        if policy is not None and not slot.free_tokens:
            policy.evict(slot)
        chunk = ids[start : start + min(128, slot.free_tokens)]
        logits, _ = model.forward_batch([SequenceChunk(chunk, slot, len(chunk))])
        follow = torch.tensor(ids[start + 1 : start + 1 + len(chunk)])
        each = F.cross_entropy(logits[: len(follow)], follow, reduction="none")
        each = each[max(0, 1000 - start) :]
        loss, count = loss + float(each.sum()), count + len(each)
        start += len(chunk)
    return math.exp(loss / count)


def continuations(model: minseek.Model, policy: Policy | None) -> list[list[int]]:
    """Greedy continuations of 16 stretches of 2,000 tokens of the Python reference."""
    ids = model.encode(text("python")[200_000:])
    prompts = [ids[i * 2500 : i * 2500 + 2000] for i in range(16)]
    if policy is None:
        plan = minseek.plan(model, policy=None, lengths=[2000 + AGREE] * 8)
    else:
        plan = minseek.plan(model, kv_budget=10**10, cap=256, policy=policy, sequences=16)
    done = minseek.generate(model, prompts, plan=plan, max_new_tokens=AGREE, ignore_eos=True)
    return [c.tokens for c in done]


def measure(model: minseek.Model, policy: Policy | None, prompts: int, full: dict[str, Any] | None) -> dict[str, Any]:
    """Everything about one policy."""
    found: dict[str, Any] = {"told": {}, "perplexity": {}}
    for kind in KINDS:
        found["told"][kind] = answers(model, kind, policy, prompts)
    for name in TEXTS:
        found["perplexity"][name] = perplexity(model, model.encode(text(name))[:READ], policy)
    found["continuations"] = continuations(model, policy)
    if full is not None:
        pairs = zip(found["continuations"], full["continuations"], strict=True)
        found["agreement"] = sum(_agreeing(a, b) for a, b in pairs) / len(full["continuations"]) / AGREE
    return found


def by_cap(model: minseek.Model, caps: list[int], prompts: int) -> str:
    """The default policy at other caps; facts of one kind, out of those that the full cache recalls."""
    policy, kind = POLICIES[DEFAULT_POLICY](), "GPL-3, four, 4,000 tokens"
    texts = {name: model.encode(text(name))[:READ] for name in TEXTS}
    whole = {name: perplexity(model, ids, None) for name, ids in texts.items()}
    known = answers(model, kind, None, prompts)
    figures: dict[str, Any] = {"machine": {**machine(), "dtype": str(model.placement.dtype)}}
    figures |= {"full cache": {"perplexity": whole, "told": known}, "caps": {}}
    rows = [["full cache", *(f"{p:.2f}" for p in whole.values()), f"{sum(known)} of {len(known)}"]]
    for cap in caps:
        found = {name: perplexity(model, ids, policy, cap) for name, ids in texts.items()}
        recalled = answers(model, kind, policy, prompts, cap)
        hits = sum(a and b for a, b in zip(recalled, known, strict=True))
        low, high = interval(hits, sum(known))
        figures["caps"][cap] = {"perplexity": found, "told": recalled}
        cells = (f"{p:.2f} (+{p / whole[name] - 1:.1%})" for name, p in found.items())
        rows.append([str(cap), *cells, f"{hits} of {sum(known)} ({low:.0%}–{high:.0%})"])
    write("quality_caps", figures)
    return table("The default policy by cap", ("cap", *(f"perplexity, {name}" for name in TEXTS), kind), rows)


def _agreeing(a: list[int], b: list[int]) -> int:
    """Tokens until the first difference."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a proportion."""
    if not count:
        return 0.0, 1.0
    z, p = 1.96, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def report(figures: dict[str, Any]) -> str:
    """The table: of the facts that the full cache tells, how many each policy keeps."""
    full, rows = figures["policies"]["full cache"], []
    for name, found in figures["policies"].items():
        cells: list[str] = []
        for kind in KINDS:
            known = full["told"][kind][: len(found["told"][kind])]
            hits = sum(a and b for a, b in zip(found["told"][kind], known, strict=True))
            if found is full:
                cells.append(f"{sum(known)} of {len(known)}")
            else:
                low, high = interval(hits, sum(known))
                cells.append(f"{hits} of {sum(known)} ({low:.0%}–{high:.0%})")
        for name_of_text in TEXTS:
            value, base = found["perplexity"][name_of_text], full["perplexity"][name_of_text]
            cells.append(f"{value:.2f}" if found is full else f"{value:.2f} (+{value / base - 1:.1%})")
        cells.append("" if found is full else f"{found['agreement']:.0%}")
        rows.append([f"**{name}**" if name == figures["default"] else name, *cells])
    head = ("policy", *KINDS, *(f"perplexity, {name}" for name in TEXTS), "agreement")
    return table("What an eighth of the cache keeps", head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="measure these policies again, and keep the others' figures")
    parser.add_argument("--prompts", type=int, help="of each kind, for every policy measured")
    parser.add_argument("--caps", type=int, nargs="+", help="measure the default policy at these caps only")
    parser.add_argument("--report", action="store_true", help="print the table of the last run")
    args = parser.parse_args()
    if args.report:
        print(report(kept("quality")))
        return
    warnings.simplefilter("ignore")
    model = minseek.load("smollm2")
    if args.caps:
        if min(args.caps) < 64:
            parser.error(f"a cap of {min(args.caps)} protects more than it leaves: give 64 or more")
        print(by_cap(model, args.caps, args.prompts or 20))
        return
    try:
        figures = kept("quality")
    except FileNotFoundError:
        figures = {"policies": {}}
    about = {**machine(), "dtype": str(model.placement.dtype)}  # before the first row: the commit may change meanwhile
    figures["default"] = DEFAULT_POLICY
    chief = ["full cache", DEFAULT_POLICY]
    for name in dict.fromkeys(args.only if args.only is not None else [*chief, *POLICIES]):
        began = time.perf_counter()
        policy = None if name == "full cache" else POLICIES[name]()
        prompts = args.prompts or (100 if name in chief else 20)
        found = measure(model, policy, prompts, figures["policies"].get("full cache"))
        figures["policies"][name] = {**found, "machine": about}
        write("quality", figures)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    print(report(figures))


if __name__ == "__main__":
    main()
