"""Do perturbed iterates move weights that rounding to nearest has stopped? On |w|, and on a small ReLU network.

    python bench/lowbit_stagnation.py [--quick] [--report]

First |w| in fixed point, spacing 2^-6, from w = 1, in many copies: with and without perturbed gradients,
against the exact distribution of w, and rounding to nearest with a perturbation that is kept, which is stochastic
rounding. Then a network of 64-32-10 on scikit-learn's digits, with weights in three formats, and step sizes from above
to below ||ulp(w)|| / (2 L0), where the bound for rounding to nearest ends. Networks of all seeds are trained as one
batch; perturbations are uniform in the box, which keeps the networks independent. --quick writes nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import RESULTS, interval, kept, table, write
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

from minseek.lowbit import Fixed, Format, bf16, e4m3fn, round_to
from minseek.lowbit.optim import PISGD, SGD

PICTURE = RESULTS.parent.parent / "docs" / "pictures" / "lowbit_stagnation.svg"
LINE = Fixed(8, 6)
DELTA, ETA = 2.0**-6, 2.0**-8
FORMATS: tuple[Format, ...] = (bf16, e4m3fn, Fixed(10, 7))
SHARES = (16.0, 4.0, 1.0, 1 / 4, 1 / 16)  # of the threshold
NEAREST, STOCHASTIC = "nearest-even", "stochastic"


def descent(rounding: Any, radius: float | None, copies: int, lr: float) -> tuple[Tensor, Callable[[], None]]:
    """Copies of w = 1, and a step of each on |w|; a radius makes it PISGD (one number: the ball is the box)."""
    w, rng = torch.nn.Parameter(torch.ones(copies)), torch.Generator().manual_seed(1)
    options = {"lr": lr, "weights": LINE, "rounding": rounding, "generator": rng}

    def closure() -> float:
        w.grad = w.detach().sign()
        return 0.0

    optimizer = SGD([w], **options) if radius is None else PISGD([w], radius=radius, shape="box", **options)
    return w, lambda: optimizer.step(closure)


def kept_perturbation(copies: int, lr: float) -> tuple[Tensor, Callable[[], None]]:
    """Rounding to nearest after u, uniform within half a spacing, was added to the new weight."""
    w, rng = torch.ones(copies), torch.Generator().manual_seed(2)

    def step() -> None:
        u = (torch.rand(copies, generator=rng) - 0.5) * DELTA
        round_to(w - lr * w.sign() + u, LINE, out=w)

    return w, step


def exact(steps: int, radius: float | None, lr: float = ETA) -> Any:
    """Distribution of w over -2 … 2 in spacings: stochastic rounding moves by one with chance lr / delta."""
    at = np.arange(-128, 129) * DELTA
    mean = np.sign(at) if radius is None else np.clip(at / radius, -1, 1)
    moved = lr / DELTA * (np.abs(mean) if radius is None else np.ones(len(at)))
    down, up = moved * (1 + mean) / 2, moved * (1 - mean) / 2
    p = (at == 1.0).astype(float)
    for _ in range(steps):
        p = p * (1 - down - up) + np.roll(p * down, -1) + np.roll(p * up, 1)
    return p


def fit(w: Tensor, p: Any) -> float | None:
    """p-value of a chi-square test of copies against a distribution, neighbors joined until 10 are expected."""
    seen = np.bincount((w / DELTA).round().long().numpy() + 128, minlength=257)
    cells = [[0.0, 0.0]]
    for pair in zip(seen, p * len(w), strict=True):
        if cells[-1][1] >= 10:
            cells.append([0.0, 0.0])
        cells[-1] = [cells[-1][0] + pair[0], cells[-1][1] + pair[1]]
    if cells[-1][1] < 10 and len(cells) > 1:
        last = cells.pop()
        cells[-1] = [cells[-1][0] + last[0], cells[-1][1] + last[1]]
    counts, expected = np.asarray(cells).T
    return float(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue) if len(cells) > 1 else None


def on_a_line(copies: int, horizons: list[int]) -> dict[str, Any]:
    ways: dict[str, Any] = {"SGD, nearest": (NEAREST, None), "SGD, stochastic": (STOCHASTIC, None)}
    for rounding, word in ((NEAREST, "nearest"), (STOCHASTIC, "stochastic")):
        for radius in (DELTA / 4, 2 * DELTA, 16 * DELTA):
            ways[f"PISGD, radius {radius / DELTA:g} spacings, {word}"] = (rounding, radius)
    ways["nearest, perturbation kept"] = None
    found: dict[str, Any] = {}
    ends: dict[str, Tensor] = {}
    for name, way in ways.items():
        w, step = kept_perturbation(copies, ETA) if way is None else descent(way[0], way[1], copies, ETA)
        by_chance, radius = way is None or way[0] == STOCHASTIC, way and way[1]
        curve, found[name] = [1.0], {}
        for k in range(1, horizons[-1] + 1):
            step()
            curve.append(float(w.detach().mean()))
            if k in horizons:
                p = exact(k, radius) if by_chance else None
                size = float(np.abs(np.arange(-128, 129) * DELTA) @ p) if by_chance else None
                found[name][k] = {"mean": interval(w.detach()), "size": interval(w.detach().abs()), "exact": size}
                found[name][k] |= {
                    "moved": float((w != 1).float().mean()),
                    "p": fit(w.detach(), p) if by_chance else None,
                }
                if k == horizons[0]:
                    ends[name] = w.detach().clone()
        found[name]["curve"] = curve[:: len(curve) // 256]
    both = [
        (ends[name] / DELTA).round().long().numpy() + 128 for name in ("SGD, stochastic", "nearest, perturbation kept")
    ]
    counts = np.stack([np.bincount(x, minlength=257) for x in both])
    counts = counts[:, counts.sum(axis=0) >= 20]
    return {"ways": found, "same": float(stats.chi2_contingency(counts).pvalue)}


def one_rounding(copies: int) -> dict[str, Any]:
    """Frequency of rounding up, stochastically and to nearest with u added. Both should be the number's fraction."""
    fraction = torch.arange(1, 64, dtype=torch.float64) / 64
    x = (fraction * DELTA).expand(copies, -1).contiguous()
    rng = torch.Generator().manual_seed(3)
    u = (torch.rand(x.shape, dtype=torch.float64, generator=rng) - 0.5) * DELTA
    error = (fraction * (1 - fraction) / copies).sqrt()
    rounded = {"stochastic": round_to(x, LINE, STOCHASTIC, generator=rng), "nearest of x + u": round_to(x + u, LINE)}
    scores = {name: ((r > 0).double().mean(dim=0) - fraction) / error for name, r in rounded.items()}
    return {name: float(stats.chi2.sf(float(z.square().sum()), len(fraction))) for name, z in scores.items()}


def thresholds(copies: int) -> list[list[Any]]:
    """Step sizes around delta / 2; as many steps as lead to 0."""
    rows = []
    for power in (-5, -6, -7, -8, -10):
        lr, ends = 2.0**power, []
        for rounding in (NEAREST, STOCHASTIC):
            w, step = descent(rounding, None, copies, lr)
            for _ in range(round(1 / lr)):
                step()
            ends.append(float(w.detach().mean()))
        rows.append([power, round(1 / lr), *ends])
    return rows


def vanished(copies: int) -> list[list[float]]:
    """Radius in spacings, and the share of perturbed points that differ from w once rounded to nearest or by chance."""
    rng, rows = torch.Generator().manual_seed(4), []
    for spacings in (0.25, 0.5, 0.75, 1.0, 2.0):
        u = (2 * torch.rand(copies, generator=rng) - 1) * spacings * DELTA
        near, by_chance = round_to(1 + u, LINE), round_to(1 + u, LINE, STOCHASTIC, generator=rng)
        rows.append([spacings, float((near != 1).float().mean()), float((by_chance != 1).float().mean())])
    return rows


def network(seeds: int) -> list[torch.nn.Parameter]:
    rng, sizes = torch.Generator().manual_seed(5), ((64, 32), (1, 32), (32, 10), (1, 10))
    wide = (64, 64, 32, 32)  # what enters the layer, as in PyTorch's initial weights
    shapes = zip(sizes, wide, strict=True)
    return [torch.nn.Parameter((2 * torch.rand(seeds, *size, generator=rng) - 1) / math.sqrt(n)) for size, n in shapes]


def losses(net: list[torch.nn.Parameter], x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each network."""
    first, b, second, c = net
    logits = torch.baddbmm(c, torch.baddbmm(b, x, first).relu(), second)
    return cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(dim=1)


def train(
    fmt: Format | None, rounding: Any, radius: float | None, lrs: list[float], steps: int, seeds: int
) -> list[dict[str, Any]]:
    """For each step size the training losses of all networks, the share of weights that a step moves, and the largest
    gradient's norm. All are one batch: each network's gradient comes multiplied by its step size, and lr is 1."""
    digits, many = load_digits(), seeds * len(lrs)
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    everything = x.expand(many, -1, -1), y.expand(many, -1)
    net = [torch.nn.Parameter(p.detach().repeat(len(lrs), 1, 1)) for p in network(seeds)]
    lr, rng = torch.tensor(lrs).repeat_interleave(seeds)[:, None, None], torch.Generator().manual_seed(6)
    options: dict[str, Any] = {"lr": 1.0, "weights": fmt, "rounding": rounding}
    options["generator"] = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net:
            p.copy_(p if fmt is None else round_to(p, fmt))
    optimizer = SGD(net, **options) if radius is None else PISGD(net, radius=radius, shape="box", **options)
    curve, moved, norm = [], [], torch.zeros(many)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = losses(net, x[rows], y[rows]).sum()
        loss.backward()
        if look:
            torch.maximum(norm, sum(p.grad.square().flatten(1).sum(dim=1) for p in net).sqrt(), out=norm)
        for p in net:
            p.grad.mul_(lr)
        return loss

    for k in range(steps + 1):
        if k % (steps // 25) == 0:
            with torch.no_grad():
                curve.append(losses(net, *everything).view(len(lrs), seeds).tolist())
        if k == steps:
            break
        rows, look = torch.randint(len(x), (seeds, 32), generator=rng).repeat(len(lrs), 1), k % 10 == 0
        before = [p.detach().clone() for p in net] if look else []
        optimizer.step(closure)
        if look:
            counts = sum((a != b.detach()).flatten(1).sum(dim=1) for a, b in zip(before, net, strict=True))
            moved.append((counts / sum(p[0].numel() for p in net)).view(len(lrs), seeds).tolist())
    late = moved[-len(moved) // 4 :]
    return [
        {
            "curve": np.mean(curve, axis=2)[:, i].round(5).tolist(), "last": curve[-1][i],
            "moved": np.mean(moved, axis=0)[i].tolist(), "late": np.mean(late, axis=0)[i].tolist(),
            "norm": float(norm.view(len(lrs), seeds)[i].max()),
        }
        for i in range(len(lrs))
    ]  # fmt: skip


def on_digits(steps: int, seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"steps": steps, "seeds": seeds, "formats": {}}
    found["L0"] = train(None, NEAREST, None, [0.1], steps, seeds)[0]["norm"]
    net = network(seeds)
    found["d"] = sum(p[0].numel() for p in net)
    for fmt in FORMATS:
        spacing = torch.cat([fmt.ulp(round_to(p, fmt)).flatten(1) for p in net], dim=1)
        threshold = float(spacing.square().sum(dim=1).sqrt().mean()) / (2 * found["L0"])
        radius = float(spacing.square().mean().sqrt())
        ways = {"float32": (None, NEAREST, None)}
        for rounding, word in ((NEAREST, "nearest"), (STOCHASTIC, "stochastic")):
            ways |= {word: (fmt, rounding, None), f"{word}, perturbed": (fmt, rounding, radius)}
        runs: dict[float, Any] = {share: {} for share in SHARES}
        for name, (own, rounding, a) in ways.items():
            found_now = train(own, rounding, a, [share * threshold for share in SHARES], steps, seeds)
            for share, run in zip(SHARES, found_now, strict=True):
                runs[share][name] = run
            print(fmt, name, [np.mean(run["last"]).round(4) for run in found_now], file=sys.stderr, flush=True)
        found["formats"][fmt.name] = {"threshold": threshold, "radius": radius, "runs": runs}
    return found


def between(pair: Any, digits: int = 4) -> str:
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def report(figures: dict[str, Any]) -> str:
    line, net = figures["line"], figures["digits"]
    rows = []
    for name, way in line["ways"].items():
        for k, e in way.items():
            if k != "curve":
                known = ["" if v is None else f"{v:.{n}f}" for v, n in ((e["exact"], 4), (e["p"], 2))]
                rows.append([name, k, between(e["mean"]), between(e["size"]), known[0], f"{e['moved']:.0%}", known[1]])
    head = ["way", "steps", "mean of w", "mean of |w|", "exact", "copies that moved", "p (χ², exact distribution)"]
    text = table(f"|w| from w = 1, spacing 2^-6, step size 2^-8, {figures['copies']} copies", head, rows)
    text += f"\n\nStochastic and nearest with the perturbation kept, same distribution after {figures['first']} steps: "
    text += f"p = {line['same']:.2f} (χ²). One rounding of 63 numbers, frequency against fraction: " + ", ".join(
        f"{name} p = {p:.2f}" for name, p in figures["once"].items()
    )
    rows = [[f"2^{power}", steps, f"{a:.4f}", f"{b:.4f}"] for power, steps, a, b in figures["thresholds"]]
    text += "\n" + table("Mean of w by step size", ["step size", "steps", "nearest", "stochastic"], rows)
    rows = [[f"{a:g}", f"{b:.1%}", f"{c:.1%}"] for a, b, c in figures["vanished"]]
    head = ["radius in spacings", "to nearest", "stochastically"]
    text += "\n" + table("Perturbed points that differ from w when they are rounded themselves", head, rows)
    for name, entry in net["formats"].items():
        rows = []
        for share, runs in entry["runs"].items():
            for way, e in runs.items():
                moved = [between([100 * v for v in interval(e[x])], 2) for x in ("moved", "late")]
                rows.append([f"{float(share):g}", way, between(interval(e["last"])), *moved])
        head = ["step size / threshold", "way", "training loss", "weights moved a step, %", "last quarter, %"]
        title = f"{name}: threshold {entry['threshold']:.3g}, radius {entry['radius']:.3g}, d = {net['d']}"
        text += "\n" + table(f"{title}, L0 {net['L0']:.2f}, {net['steps']} steps, {net['seeds']} seeds", head, rows)
    return text


def plot(figures: dict[str, Any]) -> None:
    """|w| above; losses against steps below, a format a row and a step size a column."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # smaller
    import matplotlib.pyplot as plt

    ways, entries = figures["line"]["ways"], figures["digits"]["formats"]
    fig, axes = plt.subplots(len(entries) + 1, len(SHARES), figsize=(13, 10), sharex="row", sharey="row")
    for axis in axes[0, 3:]:
        axis.axis("off")
    groups = (("SGD", "nearest, p"), ("PISGD", "nearest"), ("PISGD", "stochastic"))
    for axis, (start, word) in zip(axes[0], groups, strict=False):
        for name, way in ways.items():
            if (name.startswith(start) and (start == "SGD" or name.endswith(word))) or name.startswith(word + "ert"):
                at = np.linspace(0, figures["last"], len(way["curve"]))
                axis.plot(at[:65], way["curve"][:65], label=name, lw=1)  # the first quarter
        axis.set_yticks([0, 0.5, 1])
        axis.legend(fontsize=6)
    axes[0, 0].set_ylabel("mean of w on |w|", fontsize=8)
    looks = {"float32": ("black", "-"), "nearest": ("tab:red", "-"), "stochastic": ("tab:blue", "-")}
    looks |= {f"{name}, perturbed": (color, ":") for name, (color, _) in looks.items()}
    for line, (name, entry) in zip(axes[1:], entries.items(), strict=True):
        for axis, (share, runs) in zip(line, entry["runs"].items(), strict=True):
            for way, e in runs.items():
                steps = np.linspace(0, figures["digits"]["steps"], len(e["curve"]))
                axis.plot(steps[1::2], e["curve"][1::2], label=way, color=looks[way][0], ls=looks[way][1], lw=1.2)
            axis.set_yscale("log")
            axis.minorticks_off()
            axis.set_title(f"{name}, {float(share):g} × threshold", fontsize=8)
        line[0].set_ylabel("training loss, digits", fontsize=8)
    axes[1, 0].legend(fontsize=6)
    fig.supxlabel("steps", fontsize=9)
    for line, last in zip(axes, [figures["last"] // 4] + [figures["digits"]["steps"]] * len(entries), strict=True):
        for axis in line:
            axis.set_xticks([0, last // 2, last])
            axis.tick_params(labelsize=7)
    fig.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run, which writes nothing")
    parser.add_argument("--report", action="store_true", help="print the tables of the last run, and draw its picture")
    args = parser.parse_args()
    if args.report:
        plot(kept("lowbit_stagnation"))
        print(report(kept("lowbit_stagnation")))
        return
    torch.set_num_threads(1)
    copies, horizons = (512, [256, 512]) if args.quick else (8192, [256, 1024, 4096])
    figures = {
        "copies": copies, "first": horizons[0], "last": horizons[-1],
        "line": on_a_line(copies, horizons), "once": one_rounding(8 * copies),
        "thresholds": thresholds(copies), "vanished": vanished(8 * copies),
        "digits": on_digits(*((80, 3) if args.quick else (2000, 6))),
    }  # fmt: skip
    if not args.quick:
        write("lowbit_stagnation", figures, "scikit-learn", "numpy")
        plot(figures)
    print(report(figures))


if __name__ == "__main__":
    main()
