"""CUDA graphs: the same tokens as without, and when passes are captured, replayed and dropped.

Without a GPU, a tape that repeats the recorded operations replaces the graphs.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import minseek
from minseek.cache import Rotary, Slot, SlotMemory, SlotPool, ThoughtCache
from minseek.cache.policies import POLICIES
from minseek.engine import Engine, Generation, Job
from minseek.errors import MinseekWarning
from minseek.models.forward import cuda_graphs as cuda_graphs_module
from minseek.models.forward import decoder as decoder_module
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.forward.cuda_graphs import CaptureFn, CudaGraphCache, graph_capturer
from minseek.models.forward.decoder import Decoder
from minseek.models.model import Model
from minseek.models.weights import DecoderWeights
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.tune.memory import LiveTensors
from tests.helpers.generation import GREEDY, continued
from tests.helpers.prompts import tokens
from tests.helpers.tape import tape
from tests.helpers.tiny_models import VARIANTS, make_reference, save

LENGTHS = (150, 1, 30, 90, 7, 129, 2, 61)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error::minseek.MinseekWarning")]

REASON = "(no such operation)"
PROMPTS = [tokens(length, 300 + length) for length in LENGTHS]


class Counted:
    """Capture function of a device that counts captures and replays."""

    def __init__(self, device: str) -> None:
        self._record = graph_capturer(torch.device(device)) or tape
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        replay = self._record(run)
        self.recorded += 1

        def counted() -> None:
            self.replayed += 1
            replay()

        return counted


@pytest.fixture
def load(device: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, CaptureFn | None], Model]:
    """Load a folder's model, whose PyTorch passes are recorded so."""

    def loaded(folder: Path, record: CaptureFn | None) -> Model:
        monkeypatch.setenv("MINSEEK_NATIVE", "0")
        monkeypatch.setattr(decoder_module, "graph_capturer", lambda device: record)
        return minseek.load(str(folder), device=device, dtype="float32")

    return loaded


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second layer of three copies, whatever the weights say."""
    monkeypatch.setattr(Model, "induction_layers", property(lambda self: (1,)))


def generations(model: Model, prompts: list[list[int]], new: int, **options: Any) -> list[Generation]:
    return [Generation(model, prompt, max_new_tokens=new, sampling=GREEDY, **options) for prompt in prompts]


def run(model: Model, plan: minseek.BatchPlan, jobs: Sequence[Job]) -> SlotMemory:
    engine = Engine(model, plan)
    assert len(list(engine.run(jobs))) == len(jobs)
    return engine.pool.memory


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_eviction_tokens_equal_transformers(variant: str, device: str, load: Any, tmp_path: Path) -> None:
    """Sequences come and go in slots that are taken again; nothing is evicted."""
    counted, reference = Counted(device), make_reference(variant)
    wanted = [continued(reference, prompt, 20) for prompt in PROMPTS]
    model = load(save(tmp_path, variant), counted)
    for policy in (None, "expected-attention"):
        plan = minseek.plan(model, kv_budget="10MB", cap=max(LENGTHS) + 4, block=16, policy=policy, sequences=3)
        jobs = generations(model, PROMPTS, 20)
        run(model, plan, jobs)
        assert [job.tokens for job in jobs] == wanted
    assert counted.replayed > counted.recorded > 0


@pytest.mark.parametrize(
    ("variant", "policy"),
    [
        *((variant, "novel-values") for variant in ("llama-biases", "qwen3-yarn", "mistral-window")),
        *(("llama", "tova"), ("qwen3-yarn", "expected-attention"), ("mistral-window", "snapkv")),
    ],
)
def test_evictions_are_the_same_with_graphs(
    variant: str, policy: str, device: str, load: Any, copies: None, tmp_path: Path
) -> None:
    """Tokens and all that is noted for the policy, also in divided slots, and in sequences longer than the context."""
    save(tmp_path, variant)
    prompts = [*PROMPTS, tokens(600, 9)]
    given = []
    for record in (counted := Counted(device), None):
        model = load(tmp_path, record)
        plan = minseek.plan(model, kv_budget="10MB", cap=60, block=20, policy=policy, sequences=3)
        jobs = generations(model, prompts, 70, ignore_eos=True)
        given.append(([job.tokens for job in jobs], run(model, plan, jobs), jobs))
    (tokens_recorded, recorded, jobs), (wanted, pool, _) = given
    assert tokens_recorded == wanted
    assert any(job.completion().stats.reencodings for job in jobs)
    assert bool(plan.slot.caps) == (policy == "novel-values")
    for name in ("positions", "token_index"):
        assert torch.equal(getattr(recorded, name), getattr(pool, name)), name
    summed = ("attn_sum", "attn_window_sum", "policy_scores")
    for name in ("keys", "values", *summed, "queries", "surprise", "last_hidden"):
        torch.testing.assert_close(getattr(recorded, name), getattr(pool, name), atol=1e-3, rtol=1e-3)
    assert counted.replayed > counted.recorded > 0


@pytest.mark.parametrize("variant", ["llama", "mistral-window"])
def test_thinking_and_plain_jobs_share_graphs(variant: str, device: str, load: Any, tmp_path: Path) -> None:
    counted = Counted(device)
    model = load(save(tmp_path, variant), counted)
    plan = minseek.plan(model, kv_budget="10MB", cap=200, block=40, sequences=4)
    limits = minseek.Limits(answer_tokens=10, max_thought_tokens=40)
    questions = ["hello", "what is 2 + 2?", "how many letters has a word, and how many words a sentence?"]
    strategies = [minseek.MinSeek(3), minseek.BudgetForcing(2), minseek.MinSeek(2)]
    thinking = [
        ThinkingJob(model, question, RunOptions(strategy=strategy, sampling=GREEDY, limits=limits), plan=plan)
        for question, strategy in zip(questions, strategies, strict=True)
    ]
    plain_jobs = generations(model, PROMPTS, 30, ignore_eos=True)
    run(model, plan, [*thinking, *plain_jobs])
    slot_limits = replace(limits, kv_budget=plan.slot.capacity * model.token_bytes())
    for job, question, strategy in zip(thinking, questions, strategies, strict=True):
        alone = minseek.reason(model, question, strategy=strategy, sampling=GREEDY, limits=slot_limits)
        assert (job.result().tokens, job.result().answer) == (alone.tokens, alone.answer)
    alone = generations(model, PROMPTS, 30, ignore_eos=True)
    run(model, minseek.plan(model, kv_budget="10MB", cap=200, block=40, sequences=1), alone)
    assert [job.tokens for job in plain_jobs] == [job.tokens for job in alone]
    assert counted.replayed > counted.recorded > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_within_a_budget_uses_graphs(variant: str, device: str, load: Any, tmp_path: Path) -> None:
    """Alone in one slot: the thoughts, the answer and the bytes of a cache of its own."""
    save(tmp_path, variant, closes=6.0)
    given = []
    for record in (counted := Counted(device), None):
        model = load(tmp_path, record)
        for strategy in (minseek.MinSeek(4), minseek.BudgetForcing(2)):
            for budget in (None, 300 * model.token_bytes()):
                before = counted.replayed
                limits = minseek.Limits(kv_budget=budget, max_thought_tokens=30, answer_tokens=20)
                result = minseek.reason(model, "Why?", strategy=strategy, sampling=GREEDY, limits=limits)
                stats = replace(result.stats, seconds=0, prefill_seconds=0)
                given.append((result.tokens, result.answer, [(t.tokens, t.kept) for t in result.thoughts], stats))
                assert (counted.replayed > before) == bool(record and budget)
    assert given[:4] == given[4:]
    assert counted.replayed >= counted.recorded > 0


def test_the_least_recently_used_graph_is_dropped(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were taken last; one that comes again is recorded again. The first recording is only of memory."""
    monkeypatch.setattr(cuda_graphs_module, "_MAX_GRAPHS", 2)
    counted, carried = Counted(device), list[int]()
    place = torch.zeros(4, 2, device=device)
    graphs = CudaGraphCache(counted, place, place.clone(), 1000)

    def double(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        carried.append(len(numbers))
        return 2.0 * numbers, -1.0 * numbers

    for kind, recorded, replayed in (
        ("a", 0, 0),  # carried out as it is
        ("a", 2, 1),
        ("a", 2, 2),
        ("b", 2, 2),
        ("a", 2, 3),
        ("c", 2, 3),  # b goes
        ("b", 2, 3),  # a goes
        ("c", 3, 4),
        ("a", 3, 4),
        ("c", 3, 5),
    ):
        rows = [[len(carried), 7], [recorded, replayed]]
        logits, hidden = graphs.run(kind, rows, double)
        assert logits.tolist() == [[2.0 * n for n in row] for row in rows]
        assert hidden.tolist() == [[-1.0 * n for n in row] for row in rows]
        assert (counted.recorded, counted.replayed) == (recorded, replayed)


def test_a_failed_capture_warns_once_and_decoding_continues(device: str, load: Any, tmp_path: Path) -> None:
    attempts = []

    def failing(run: Callable[[], None]) -> Callable[[], None]:
        attempts.append(run)
        try:
            raise RuntimeError("no such operation\nand many words more")
        finally:  # as CUDA does when the recording is ended
            raise RuntimeError("an error came before")

    save(tmp_path, "llama")
    given = []
    for record in (failing, None):
        model = load(tmp_path, record)
        plan = minseek.plan(model, kv_budget="10MB", cap=40, block=16, sequences=3, policy="rank-sum")
        jobs = generations(model, PROMPTS, 40)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(model, plan, jobs)
            run(model, plan, generations(model, PROMPTS[:2], 5))
        mine = [str(w.message) for w in caught if w.category is MinseekWarning]
        assert mine == (
            [] if record is None else [f"decoding will be slow: its CUDA graphs could not be captured {REASON}"]
        )
        given.append([job.tokens for job in jobs])
    assert given[0] == given[1]
    assert len(attempts) == 1


def test_graphs_are_freed_with_their_slots(device: str, load: Any, tmp_path: Path) -> None:
    model = load(save(tmp_path, "llama"), graph_capturer(torch.device(device)) or tape)
    plan = minseek.plan(model, kv_budget="10MB", cap=60, block=16, sequences=2)
    engine = Engine(model, plan)
    list(engine.run(generations(model, PROMPTS, 5)))
    held = model._decoder._torch._graphs
    assert list(held) == [engine.pool.memory]
    collects = gc.isenabled()
    gc.disable()  # nothing waits for a collection
    try:
        del engine
        assert not held
        limits = minseek.Limits(kv_budget=300 * model.token_bytes())
        minseek.reason(model, "Why?", strategy=minseek.MinSeek(2), sampling=GREEDY, limits=limits)
        assert not held
    finally:
        if collects:
            gc.enable()


def test_slots_of_two_pools_share_a_pass_without_a_graph(device: str, load: Any, tmp_path: Path) -> None:
    counted = Counted(device)
    model = load(save(tmp_path, "llama"), counted)
    plan = minseek.plan(model, kv_budget="10MB", cap=60, block=16, sequences=1)
    pools = [model.make_slot_pool(plan.slot, 1) for _ in range(3)]
    for token in range(5):
        ours, _ = model.forward_batch([SequenceChunk([token], pool.slots[0], 1) for pool in pools[:2]])
        alone, _ = model.forward_batch([SequenceChunk([token], pools[2].slots[0], 1)])
        torch.testing.assert_close(ours, alone.expand_as(ours), atol=1e-4, rtol=1e-4)
    assert (counted.recorded, counted.replayed) == (2, 4)


def test_only_gpus_record_and_can_be_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph_capturer(torch.device("cpu")) is None
    monkeypatch.setattr(cuda_graphs_module, "cuda_graph_capturer", lambda device: tape)
    assert graph_capturer(torch.device("cuda", 1)) is tape
    monkeypatch.setenv("MINSEEK_CUDA_GRAPHS", "0")
    assert graph_capturer(torch.device("cuda", 1)) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("policy", ["novel-values", None])
def test_a_batch_on_a_gpu_stays_within_its_plan(policy: str | None, tmp_path: Path) -> None:
    """All reserved memory, since graphs keep theirs."""
    folder = save(tmp_path, "llama", num_hidden_layers=12, vocab_size=30_000, max_position_embeddings=2048)
    model = minseek.load(str(folder), device="cuda", dtype="bfloat16")
    plan = minseek.plan(model, kv_budget="600MB", cap=800, block=128, policy=policy, sequences=64)
    prompts = [tokens(500, seed) for seed in range(2 * plan.slots)]
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    run(model, plan, generations(model, prompts, 300, ignore_eos=True))
    workspaces = 128 * 2**20  # of libraries, one for each stream, and what is rounded up
    assert torch.cuda.max_memory_reserved() - before <= plan.kv_bytes + plan.activation_bytes + workspaces


# Without a GPU: the device "meta" refuses most of what a GPU does, as computing with tensors of main memory; and it
# refuses what a GPU makes wait for, all reading of what was computed


def on_meta(weights: DecoderWeights) -> DecoderWeights:
    def moved(given: Any) -> Any:
        return given.to("meta") if isinstance(given, torch.Tensor) else given

    layers = [replace(layer, **{name: moved(given) for name, given in vars(layer).items()}) for layer in weights.layers]
    rotary = Rotary(moved(weights.rotary.inv_freq), weights.rotary.scaling)
    others = {name: moved(getattr(weights, name)) for name in ("embedding", "norm", "lm_head", "lm_head_bias")}
    return replace(weights, layers=layers, rotary=rotary, **others)


def weights_of(weights: DecoderWeights) -> list[torch.Tensor]:
    every = [given for layer in weights.layers for given in vars(layer).values()] + list(vars(weights).values())
    return [given for given in every if isinstance(given, torch.Tensor)]


@pytest.mark.parametrize(
    ("variant", "policy"),
    [
        *(("llama-biases", policy) for policy in POLICIES if policy != "novel-values"),  # which reads its sums
        *((variant, "expected-attention") for variant in ("qwen3-yarn", "mistral-window")),
    ],
)
def test_passes_and_evictions_stay_on_their_device(variant: str, policy: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, variant)), device="cpu", dtype="float32")
    plan = minseek.plan(model, kv_budget="10MB", cap=60, block=20, policy=policy, sequences=4)
    assert plan.policy is not None
    shape = replace(plan.slot, hidden_size=model.hidden_size, caps=(50, 80, 50))
    weights = on_meta(model.weights)
    decoder, pool = Decoder(weights), SlotPool(shape, weights.rotary, 4, device="meta")
    thoughts = ThoughtCache.over(pool.slots[3])
    for index in range(24):
        for slot in pool.slots[:3]:
            if not slot.free_tokens:
                plan.policy.evict(slot)
        read = [SequenceChunk(list(range(min(30, pool.slots[1].free_tokens))), pool.slots[1], 1)] * (index % 3 == 0)
        alone = [SequenceChunk([index], cache, 1) for cache in (pool.slots[0], thoughts, pool.slots[2])]
        logits, hidden = decoder.forward_batch([alone[0], *read, *alone[1:]])
        assert logits.shape == (3 + len(read), weights.vocab_size)
        assert hidden.shape == (3 + len(read), weights.hidden_size)
        assert (logits.device.type, hidden.device.type) == ("meta", "meta")
    assert [slot.evictions for slot in pool.slots] == [0, 6, 0, 0]
    assert pool.slots[1].partitioned
    pool.slots[1].reencode()
    thoughts.drop(3, 10)


@pytest.mark.parametrize("policy", ["novel-values", "expected-attention", None])
@pytest.mark.parametrize(
    ("variant", "dtype", "sizes"),
    [
        ("llama", "float32", {}),
        ("qwen3", "bfloat16", {"hidden_size": 192, "intermediate_size": 640, "head_dim": 32, "vocab_size": 3000}),
        ("mistral-window", "bfloat16", {"num_key_value_heads": 6, "vocab_size": 3000}),
        ("mistral-window", "float32", {}),
    ],
)
def test_the_plan_counts_what_a_pass_makes(
    variant: str, dtype: str, sizes: Any, policy: str | None, tmp_path: Path
) -> None:
    """Prefill in full slots, and decoding in all or nearly all slots."""
    folder = save(tmp_path, variant, max_position_embeddings=4096, **sizes)
    model = minseek.load(str(folder), device="cpu", dtype=dtype)
    plan = minseek.plan(model, kv_budget="1GB", cap=900, block=128, policy=policy, sequences=24)
    weights = on_meta(model.weights)
    decoder, pool = Decoder(weights), SlotPool(plan.slot, weights.rotary, plan.slots, device="meta")
    held = [*weights_of(weights), *(t for t in vars(pool.memory).values() if isinstance(t, torch.Tensor))]
    for chunks in (
        [SequenceChunk([1] * 128, slot, 1) for slot in pool.slots[:4]],
        [SequenceChunk([1], slot, 1) for slot in pool.slots],
        [SequenceChunk([1], slot, 1) for slot in pool.slots[1:]],
    ):
        for chunk in chunks:
            slot = cast("Slot", chunk.cache)
            for group in slot.layer_groups:
                group.length = group.capacity - len(chunk.tokens)
            slot.num_tokens = slot.position = slot.length
            if slot.observer is not None:
                slot.observer.num_since_eviction = slot.length
        with LiveTensors() as live:
            for tensor in held:
                live.note(tensor)
            before = live.live
            decoder.forward_batch(chunks)
        needed = decoder.activation_bytes(sum(len(f.tokens) for f in chunks), plan.slot.max_capacity, len(chunks))
        assert 0 < live.peak - before <= needed


# The tape


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x[0].item(), "reads a number"),
        (lambda x: x + float(x[0]), "reads a number"),
        (lambda x: x.nonzero(), "depends on the data"),
        (lambda x: x[x > 1], "with a mask"),
        (lambda x: x.masked_select(x > 1), "depends on the data"),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0]), "copies a Python list"),
    ],
)
def test_the_tape_refuses_what_a_capture_refuses(wrong: Callable[[torch.Tensor], Any], message: str) -> None:
    x = torch.arange(3.0)
    with pytest.raises(RuntimeError, match=message):
        tape(lambda: wrong(x))


def test_the_tape_repeats_operations_and_not_python() -> None:
    x, total, kept, seen = torch.ones(3), torch.zeros(3), torch.zeros(2, 2), list[int]()

    def add() -> None:
        seen.append(1)
        doubled = x * (1 + len(seen))  # what Python counted stays as it was
        total.add_(doubled)
        view = kept.view(-1)[1:4]
        view[torch.arange(3)] = doubled.flip(0)

    replay = tape(add)
    assert (total.tolist(), kept.tolist()) == ([0] * 3, [[0, 0], [0, 0]])
    replay()
    x.copy_(torch.tensor([1.0, 2.0, 3.0]))
    replay()
    assert total.tolist() == [4, 6, 8]
    assert kept.tolist() == [[0, 6], [4, 2]]
    assert seen == [1]
