"""Think far beyond the model's context in a cache that stays small, event by event.

The embedded model `tiny` has a context of 512 tokens; this run writes several times as many.
"""

from __future__ import annotations

import minseek

QUESTION = "Compute (8+4)*3-6."


def main() -> None:
    model = minseek.load("tiny")
    strategy = minseek.MinSeek(thoughts=40)
    for event in minseek.stream(model, QUESTION, strategy=strategy, sampling=minseek.Sampling(seed=0)):
        if isinstance(event, minseek.ThoughtEnded) and event.thought.index % 10 == 0:
            kept = "kept" if event.kept else "dropped"
            print(f"thought {event.thought.index}: {kept}; {event.cached} tokens in the cache")
        if isinstance(event, minseek.Finished):
            stats = event.result.stats
            print(event.result.answer)
            print(f"{stats.thinking_tokens} tokens of thinking; the cache held at most {stats.kv_tokens_peak}")
            assert stats.thinking_tokens > 512 > stats.kv_tokens_peak


if __name__ == "__main__":
    main()
