"""Packed matrices compute as their dequantized twins: the same bits in float32, in every path of the forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minseek.cache import SlotPool, SlotShape, ThoughtCache
from minseek.models.config import from_transformers
from minseek.models.forward import decoder as decoder_module
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.forward.decoder import Decoder
from minseek.models.matrix import PackedMatrix
from minseek.models.weights import DecoderWeights, from_state_dict
from minseek.native import native_status
from minseek.quant import BLOCK_FORMATS, PackedTensor, block_format, pack
from minseek.quant.native_rows import dequantize_rows
from tests.helpers.tiny_models import make_reference

PACKED = [name for name, form in BLOCK_FORMATS.items() if not form.is_dense]
WIDE = {  # whole blocks of 256
    **{"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
}
ODD = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2}  # blocks of 32 that fill no vector pair


@pytest.fixture(autouse=True)
def as_many_threads_for_packed_weights_as_for_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bytes get few threads, among which a single step divides its attention: sums differ in their last bits."""
    monkeypatch.setattr(decoder_module, "_WEIGHT_BYTES_PER_THREAD", 1)


def needs_kernels() -> None:
    if native_status(torch.float32).library is None:
        pytest.skip("there are no C kernels")


def random_rows(name: str, rows: int, blocks: int, seed: int) -> PackedTensor:
    """Blocks of random bytes whose scales are finite: no fp16 number in them has the highest exponents."""
    form = BLOCK_FORMATS[name]
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * form.block_bytes), np.uint8)
    data[:, 1::2] &= 0x3F
    return PackedTensor(form, rows, blocks * form.block_size, data)


@given(st.sampled_from(list(BLOCK_FORMATS)), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_dequantize_as_gguf_does(dtype: torch.dtype, name: str, rows: int, blocks: int, seed: int) -> None:
    needs_kernels()
    packed = random_rows(name, rows, 7 * blocks if BLOCK_FORMATS[name].is_dense else blocks, seed)
    library = native_status(dtype).library
    assert library is not None
    np.testing.assert_array_equal(dequantize_rows(library, packed, 0, rows), packed.dequantize())
    np.testing.assert_array_equal(dequantize_rows(library, packed, rows - 1, rows), packed.dequantize(rows - 1, rows))


def twins(name: str, sizes: dict[str, int], dtype: torch.dtype, variant: str) -> tuple[DecoderWeights, DecoderWeights]:
    """A tiny model with packed matrices, and with the same ones dequantized."""
    reference = make_reference(variant, **sizes)
    config, packed, unpacked = from_transformers(reference), {}, {}
    for key, weight in reference.state_dict().items():
        if weight.ndim == 1 or (variant.endswith("tied") and key.startswith("lm_head")):
            if weight.ndim == 1:
                packed[key] = unpacked[key] = weight.to(dtype)
            continue
        matrix = PackedMatrix(pack(weight.numpy(), block_format(name)), dtype)
        packed[key], unpacked[key] = matrix, matrix.float_rows(0, len(matrix)).to(dtype)
    return from_state_dict(config, packed), from_state_dict(config, unpacked)


def logits(weights: DecoderWeights) -> list[torch.Tensor]:
    """Logits of single steps, of chunks, and of batches of one to seven sequences."""
    decoder, ids = Decoder(weights), torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    cache = ThoughtCache(weights.shape, weights.rotary)
    found = [decoder.forward(part, cache) for part in (ids[:1], ids[1:3], ids[3:40], ids[40:41])]
    for batch in (1, 2, 3, 7):
        shape = SlotShape(weights.shape, 32, 16, num_heads=weights.config.num_heads)
        slots = SlotPool(shape, weights.rotary, batch).slots
        prompts = [SequenceChunk(ids[: 4 + i], slot, 1) for i, slot in enumerate(slots)]
        found.append(decoder.forward_batch(prompts)[0])
        found.append(decoder.forward_batch([SequenceChunk([7 + i], slot, 1) for i, slot in enumerate(slots)])[0])
    return found


@pytest.mark.parametrize("variant", ["llama", "qwen3", "qwen2", "llama-tied"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_models_equal_their_dense_twins_to_the_last_bit(name: str, variant: str) -> None:
    needs_kernels()
    if variant != "llama" and name not in ("q4_0", "q4_k", "q8_0"):
        pytest.skip("every format is tried with one architecture")
    sizes = ODD if BLOCK_FORMATS[name].block_size == 32 and variant != "qwen2" else WIDE
    packed, unpacked = twins(name, sizes, torch.float32, variant)
    assert packed.weight_bytes < 0.5 * unpacked.weight_bytes
    for ours, twin in zip(logits(packed), logits(unpacked), strict=True):
        assert torch.equal(ours, twin)


@pytest.mark.parametrize("name", ["q4_0", "q6_k"])
def test_pytorch_and_c_agree_on_packed_matrices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kernels()
    packed, _ = twins(name, WIDE, torch.float32, "llama")
    in_c = logits(packed)
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    assert Decoder(packed).backend == "PyTorch"
    for ours, other in zip(in_c, logits(packed), strict=True):
        torch.testing.assert_close(ours, other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["q4_1", "q4_k", "q8_0"])
def test_packed_bfloat16_models_are_as_close_to_the_truth_as_their_dense_twins(name: str) -> None:
    needs_kernels()
    packed, unpacked = twins(name, WIDE, torch.bfloat16, "llama")
    truth = logits(twins(name, WIDE, torch.float32, "llama")[1])

    def error(found: list[torch.Tensor]) -> float:
        return float(torch.stack([(a - b).pow(2).mean() for a, b in zip(found, truth, strict=True)]).mean().sqrt())

    assert error(logits(packed)) <= 1.1 * error(logits(unpacked))


def test_a_column_does_not_depend_on_the_batch_with_packed_matrices() -> None:
    needs_kernels()
    for dtype in (torch.float32, torch.bfloat16):
        weights, _ = twins("q4_k", WIDE, dtype, "llama")
        decoder, shape = Decoder(weights), SlotShape(weights.shape, 32, 16, num_heads=4)
        results = []
        for batch in (1, 2, 4, 9, 17):
            slots = SlotPool(shape, weights.rotary, batch).slots
            decoder.forward_batch([SequenceChunk([1, 2, 3, 4 + i], slot) for i, slot in enumerate(slots)])
            results.append(decoder.forward_batch([SequenceChunk([9], slot, 1) for slot in slots])[0][0])
        assert all(torch.equal(results[0], other) for other in results[1:])
