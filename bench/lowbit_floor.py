"""The derived floor of SGD in fixed point against the measured one, on two functions whose constants are all known.

    python bench/lowbit_floor.py [--quick] [--report]

Derived: mean ||grad f_a||^2 <= D/(eta K) + L0 b_s/eta + (3 L_a/2) (eta Q + m_s/eta), with the weights on a grid of
spacing delta and gradients exact (b_e = m_e = 0). Measured: the left side, over the iterates that steps begin from.

separable: f = sum_i |w_i - c_i| with noise z_i in every slope, uniform, of variance 1; box of radius a.
    grad f_a = clip((w - c)/a, -1, 1), so L_a = 1/a; L0 = sqrt(d); Q = E||sign + z||^2 = 2 d; D = f_a(w_1) - d a/2.
coupled: f = mean_i |r_i (w - w*)| over 256 unit rows r_i, one drawn a step; ball of radius a.
    grad f_a = mean_i r_i (2 P(t) - 1), t = r_i (w - w*)/a and P the distribution function of one coordinate of the unit
    ball, a Beta((d+1)/2, (d+1)/2) stretched to [-1, 1] of density p; L_a = 2 p(0)/a times the largest eigenvalue of
    mean_i r_i r_i'; L0 = Q = 1; D by integrating.

Both have their least smoothed value where w = c or w*, which is not on the grid. b_s is 0 for stochastic rounding and
sqrt(d) delta/2 for nearest; m_s = d delta^2/4. Half of the runs start far from the minimum, half on the grid point
nearest to it, where D is almost nothing: the floor. --quick writes nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np
import torch
from common import RESULTS, interval, kept, table, write
from scipy import stats
from torch import Tensor

from minseek.lowbit import Fixed, round_to
from minseek.lowbit.optim import PISGD, SGD

PICTURE = RESULTS.parent.parent / "docs" / "pictures" / "lowbit_floor.svg"
BASE = (6, 64)  # delta = 2^-6, d = 64
SETTINGS = (*((power, 64) for power in (4, 5, 6, 7, 8)), *((6, d) for d in (4, 16, 256)))
TO_NEAREST = ((4, 64), BASE, (8, 64))
ETAS = tuple(range(-10, -1))  # powers of two
EVERY = 16  # iterates that are looked at
ROUNDINGS = ("stochastic", "nearest-even")


class Separable:
    name, radius = "separable", 0.5

    def __init__(self, d: int) -> None:
        self.center = 2 * torch.rand(d, generator=torch.Generator().manual_seed(d)) - 1
        self.away = torch.ones(d)
        self.l0, self.smoothness, self.q = math.sqrt(d), 1 / self.radius, 2.0 * d

    def gradient(self, points: Tensor, rng: torch.Generator) -> Tensor:
        noise = (torch.rand(points.shape, generator=rng) * 2 - 1) * math.sqrt(3)
        return (points - self.center).sign() + noise

    def smoothed(self, w: Tensor) -> Tensor:
        """grad f_a; the last dimension holds the weights, as everywhere here."""
        return ((w - self.center) / self.radius).clamp(-1, 1)

    def above(self, w: Tensor) -> Tensor:
        """f_a(w) - min f_a."""
        x = (w - self.center).abs()
        inside = (x.square() + self.radius**2) / (2 * self.radius)
        return (torch.where(x < self.radius, inside, x) - self.radius / 2).sum(dim=-1)


class Coupled:
    name, radius = "coupled", 0.25

    def __init__(self, d: int) -> None:
        rng = torch.Generator().manual_seed(d)
        self.center = 2 * torch.rand(d, generator=rng) - 1
        self.rows = torch.nn.functional.normalize(torch.randn(256, d, generator=rng), dim=1)
        self.away = torch.nn.functional.normalize(torch.randn(d, generator=rng), dim=0)
        coordinate = stats.beta((d + 1) / 2, (d + 1) / 2, loc=-1, scale=2)
        self.at = np.linspace(-1, 1, 8193)
        self.slope = 2 * coordinate.cdf(self.at) - 1
        self.value = self.radius * np.concatenate(([0.0], np.cumsum(self.slope[1:] + self.slope[:-1]) / 8192))
        self.value -= self.value.min()
        largest = float(torch.linalg.eigvalsh(self.rows.T @ self.rows / len(self.rows)).max())
        self.l0, self.smoothness, self.q = 1.0, 2 * float(coordinate.pdf(0)) / self.radius * largest, 1.0

    def gradient(self, points: Tensor, rng: torch.Generator) -> Tensor:
        own = self.rows[torch.randint(len(self.rows), (len(points),), generator=rng)]
        return own * ((points - self.center) * own).sum(dim=1, keepdim=True).sign()

    def smoothed(self, w: Tensor) -> Tensor:
        t = ((w - self.center) @ self.rows.T).numpy() / self.radius
        return torch.from_numpy(np.interp(t, self.at, self.slope)).float() @ self.rows / len(self.rows)

    def above(self, w: Tensor) -> Tensor:
        t = ((w - self.center) @ self.rows.T).numpy() / self.radius
        beyond = np.maximum(np.abs(t) - 1, 0) * self.radius
        return torch.from_numpy((np.interp(t, self.at, self.value) + beyond).mean(axis=-1))


def in_ball(shape: torch.Size, radius: float, rng: torch.Generator) -> Tensor:
    """A point of the ball for every row, as `PISGD` draws one for every parameter group."""
    ray = torch.nn.functional.normalize(torch.randn(shape, generator=rng), dim=1)
    return radius * torch.rand(shape[0], 1, generator=rng) ** (1 / shape[1]) * ray


def descend(problem: Any, power: int, rounding: Any, steps: int, runs: int) -> list[dict[str, Any]]:
    """For every step size the squared norms of the smoothed gradient of runs that start far (first half) and near,
    and the measured Q and m_s. All are one tensor: each row's gradient comes multiplied by its step size, lr is 1."""
    grid, rng, half = Fixed(20, power), torch.Generator().manual_seed(11), runs // 2
    signs = (torch.rand(half, 1, generator=rng) < 0.5).float() * 2 - 1
    start = problem.center + torch.cat((signs, torch.zeros(half, 1))).repeat(len(ETAS), 1) * problem.away
    eta = (2.0 ** torch.tensor(ETAS)).repeat_interleave(runs)[:, None]
    w = torch.nn.Parameter(round_to(start, grid))
    first = problem.above(w.detach()).view(len(ETAS), runs)
    options: dict[str, Any] = {"lr": 1.0, "weights": grid, "rounding": rounding}
    options["generator"] = torch.Generator().manual_seed(12)
    box = isinstance(problem, Separable)
    optimizer = PISGD([w], radius=problem.radius, shape="box", **options) if box else SGD([w], **options)

    def closure() -> float:
        points = w.detach() if box else w.detach() + in_ball(w.shape, problem.radius, rng)
        w.grad = problem.gradient(points, rng).mul_(eta)
        return 0.0

    norms, errors, squares = [], [], []
    for k in range(steps):
        look = k % EVERY == EVERY // 2  # in the middle: early gradients are large
        if look:
            before = w.detach().clone()
            norms.append(problem.smoothed(before).square().sum(dim=-1).view(len(ETAS), runs))
        optimizer.step(closure)
        if look:
            assert w.grad is not None
            errors.append((w.detach() - before + w.grad).square().sum(dim=1).view(len(ETAS), runs))
            squares.append((w.grad / eta).square().sum(dim=1).view(len(ETAS), runs))
    norm, error, square, late = *map(torch.stack, (norms, errors, squares)), slice(len(norms) // 2, None)
    return [
        {
            "far": interval(norm[:, i, :half].mean(dim=0)), "near": interval(norm[:, i, half:].mean(dim=0)),
            "floor": interval(norm[late, i, half:].mean(dim=0)), "end": interval(norm[late, i, :half].mean(dim=0)),
            "D": float(first[i, :half].mean()), "D near": float(first[i, half:].mean()),
            "Q": float(square[:, i].mean()), "m_s far": float(error[:, i, :half].mean()),
            "m_s near": float(error[:, i, half:].mean()),
        }
        for i in range(len(ETAS))
    ]  # fmt: skip


def by_groups(power: int, eta: float, steps: int, runs: int) -> list[float]:
    """The floor of the coupled function with `PISGD` itself, each run a parameter group with a ball of its own."""
    problem, grid, rng = Coupled(BASE[1]), Fixed(20, power), torch.Generator().manual_seed(13)
    tensors = [torch.nn.Parameter(round_to(problem.center, grid)) for _ in range(runs)]
    optimizer = PISGD([{"params": [p]} for p in tensors], lr=eta, radius=problem.radius, weights=grid,
                      generator=torch.Generator().manual_seed(14))  # fmt: skip

    def closure() -> float:
        gradients = problem.gradient(torch.stack([p.detach() for p in tensors]), rng)
        for p, g in zip(tensors, gradients, strict=True):
            p.grad = g.clone()
        return 0.0

    norms = []
    for k in range(steps):
        if k >= steps // 2 and k % EVERY == EVERY // 2:
            norms.append(problem.smoothed(torch.stack([p.detach() for p in tensors])).square().sum(dim=-1))
        optimizer.step(closure)
    return list(interval(torch.stack(norms).mean(dim=0)))


def bound(e: dict[str, Any], eta: float, steps: int, rounding: str, start: str) -> dict[str, float]:
    """The right side as derived; with the measured m_s; and, where rounding is unbiased, with 1/2 for 3/2, as then
    the error's product with the gradient vanishes in the mean."""
    away, measured = e["D" if start == "far" else "D near"] / (eta * steps), e[f"m_s {start}"]
    bias = 0.0 if rounding == "stochastic" else e["L0"] * math.sqrt(e["d"]) * e["delta"] / (2 * eta)
    worst = e["d"] * e["delta"] ** 2 / 4
    known = {"derived": away + bias + 1.5 * e["La"] * (eta * e["q"] + worst / eta)}
    known["own m_s"] = away + bias + 1.5 * e["La"] * (eta * e["q"] + measured / eta)
    if rounding == "stochastic":
        known["half"] = away + 0.5 * e["La"] * (eta * e["q"] + measured / eta)
    return known


def run(steps: int, runs: int, settings: Any, to_nearest: Any) -> list[dict[str, Any]]:
    found = []
    for kind in (Separable, Coupled):
        for power, d in settings:
            problem = kind(d)
            about = {"problem": problem.name, "delta": 2.0**-power, "d": d, "L0": problem.l0, "La": problem.smoothness}
            for rounding in ROUNDINGS if (power, d) in to_nearest else ROUNDINGS[:1]:
                for eta, e in zip(ETAS, descend(problem, power, rounding, steps, runs), strict=True):
                    e = {**about, "q": problem.q, "rounding": rounding, "eta": 2.0**eta, **e}
                    e["bound"] = {start: bound(e, 2.0**eta, steps, rounding, start) for start in ("far", "near")}
                    found.append(e)
                print(problem.name, power, d, rounding, [round(e["floor"][0], 5) for e in found[-len(ETAS) :]],
                      file=sys.stderr, flush=True)  # fmt: skip
    return found


def sweep(found: list[dict[str, Any]], problem: str, power: int, d: int, rounding: str) -> list[dict[str, Any]]:
    """Runs of one setting, by step size."""
    wanted = (problem, 2.0**-power, d, rounding)
    return [e for e in found if (e["problem"], e["delta"], e["d"], e["rounding"]) == wanted]


def formula(e: dict[str, Any]) -> float:
    """Best step size of the derived floor."""
    return e["delta"] * math.sqrt(e["d"]) / (2 * math.sqrt(e["q"]))


def derived(e: dict[str, Any]) -> float:
    """The floor's right side, without D."""
    bias = 0.0 if e["rounding"] == "stochastic" else e["L0"] * math.sqrt(e["d"]) * e["delta"] / (2 * e["eta"])
    return bias + 1.5 * e["La"] * (e["eta"] * e["q"] + e["d"] * e["delta"] ** 2 / (4 * e["eta"]))


def at(line: list[dict[str, Any]], eta: float) -> tuple[float, float]:
    """The measured and the derived floor over L_a, at a step size between those that were run."""
    x = [math.log(e["eta"]) for e in line]
    values = [(math.log(e["floor"][0] / e["La"]), math.log(derived(e) / e["La"])) for e in line]
    first, second = (float(np.exp(np.interp(math.log(eta), x, y))) for y in zip(*values, strict=True))
    return first, second


def exponent(x: Any, y: Any) -> str:
    """Slope of log y over log x with its 95 % interval, by least squares."""
    if len(x) < 3:
        return "too few"
    found = stats.linregress(np.log(x), np.log(y))
    return f"{found.slope:.2f} ± {stats.t.ppf(0.975, len(x) - 2) * found.stderr:.2f}"


def settled(line: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Step sizes for which the second half begins after two relaxation times, 1 / (eta L_a), or more."""
    return [e for e in line if e["eta"] * e["La"] * steps >= 4]


def scaling(figures: dict[str, Any], problem: str) -> list[list[str]]:
    """Exponents of the measured floor, stochastic rounding, with those of the derived one at the same points."""
    found, steps = figures["found"], figures["steps"]
    lines = {s: settled(sweep(found, problem, *s, "stochastic"), steps) for s in SETTINGS}
    base = lines[BASE]
    star, top = formula(base[0]), max(e["floor"][0] for e in base)
    small = [e for e in base if e["eta"] < star]
    large = [e for e in base if e["eta"] > 2 * star and e["floor"][0] < top / 2]
    rows = []
    for name, some in (("below", small), ("more than twice", large)):
        x = [e["eta"] for e in some]
        values = [e["floor"][0] for e in some], [derived(e) for e in some]
        rows.append([f"eta, {name} the formula's best", *(exponent(x, y) for y in values)])
    x = [e["eta"] for e in small]
    rows.append(["eta, below: m_s", exponent(x, [e["m_s near"] for e in small]), "0 (a constant)"])
    least = max(line[0]["eta"] for line in lines.values())
    for name, kept_at in (("delta", 1), ("d", 0)):
        some = [line for s, line in lines.items() if s[kept_at] == BASE[kept_at]]
        within = [line for line in some if line[0]["eta"] <= formula(line[0]) <= line[-1]["eta"]]
        small_there = [line for line in some if formula(line[0]) > least]
        places = (("the formula's best eta", within, None), (f"eta {power_of(least)}, below it", small_there, least))
        for place, chosen, eta in places:
            x = [line[0][name] for line in chosen]
            both = np.array([at(line, eta or formula(line[0])) for line in chosen]).reshape(-1, 2).T
            rows.append([f"{name}, at {place} ({len(x)} values)", *(exponent(x, y) for y in both)])
    return rows


def power_of(x: float) -> str:
    return f"2^{math.log2(x):.3g}"


def report(figures: dict[str, Any]) -> str:
    found, text = figures["found"], ""
    over = [e for e in found for start in ("far", "near") if e[start][0] > e["bound"][start]["derived"]]
    text += (
        f"\n{2 * len(found)} means measured, {len(over)} above the derived bound; with 1/2 for 3/2 and the measured "
    )
    mild = [(e[s][0] - e[s][1] > e["bound"][s].get("half", math.inf)) for e in found for s in ("far", "near")]
    text += f"m_s, {sum(mild)} of the {sum(e['rounding'] == 'stochastic' for e in found) * 2} of stochastic rounding\n"
    for problem in ("separable", "coupled"):
        for rounding in ROUNDINGS:
            rows = []
            for e in sweep(found, problem, *BASE, rounding):
                b, away = e["bound"]["far"], e["D near"] / (e["eta"] * figures["steps"])
                n = {name: value - away for name, value in e["bound"]["near"].items()}
                rows.append([
                    power_of(e["eta"]), f"{e['far'][0]:.3g} ± {e['far'][1]:.1g}",
                    f"{b['derived']:.3g}" + (" (> L0²)" if b["derived"] > e["L0"] ** 2 else ""),
                    f"{e['floor'][0]:.3g} ± {e['floor'][1]:.1g}", f"{n['derived']:.3g}", f"{n['own m_s']:.3g}",
                    f"{n['half']:.3g}" if "half" in n else "", f"{n['derived'] / e['floor'][0]:.3g}",
                    f"{e['m_s near'] / (e['d'] * e['delta'] ** 2 / 4):.2f}", f"{e['Q'] / e['q']:.2f}",
                ])  # fmt: skip
            head = ["eta", "far start, all iterates", "derived", "floor: near start, second half", "derived, without D",
                    "with measured m_s", "and 1/2 for 3/2", "derived / floor", "m_s / (d delta²/4)",
                    "Q / its value"]  # fmt: skip
            e = sweep(found, problem, *BASE, rounding)[0]
            title = f"{problem}, {rounding}: delta 2^-6, d = {e['d']}, L0 = {e['L0']:g}, L_a = {e['La']:.3g}, "
            title += f"Q = {e['q']:g}, D = {e['D']:.3g}, {figures['steps']} steps, {figures['runs'] // 2} runs"
            text += table(title, head, rows) + "\n"
    rows = []
    for problem in ("separable", "coupled"):
        for power, d in SETTINGS:
            for rounding in ROUNDINGS:
                line = sweep(found, problem, power, d, rounding)
                if not line:
                    continue
                far, near = (min(line, key=lambda e, s=s: e[s][0]) for s in ("far", "floor"))
                low = min(line, key=lambda e: e["bound"]["far"]["derived"])
                rows.append([problem, f"2^-{power}", d, rounding, power_of(formula(line[0])), power_of(low["eta"]),
                             power_of(far["eta"]), f"{far['far'][0]:.3g} ± {far['far'][1]:.1g}",
                             power_of(near["eta"]), f"{near['floor'][0]:.3g} ± {near['floor'][1]:.1g}",
                             f"{at(line, formula(line[0]))[0] * line[0]['La']:.3g}"])  # fmt: skip
    head = ["problem", "delta", "d", "rounding", "formula's best eta", "best of the bound with D",
            "measured, far start", "mean there", "measured, floor", "floor there",
            "floor at the formula's"]  # fmt: skip
    text += table("Best step sizes, among powers of two", head, rows) + "\n"
    for problem in ("separable", "coupled"):
        title = f"{problem}: exponents of the floor (over L_a where d varies), stochastic rounding"
        text += table(title, ["in", "measured", "derived"], scaling(figures, problem)) + "\n"
    text += "\nThe coupled floor at delta 2^-6, d = 64, eta 2^-5 with a parameter group of PISGD for each run: "
    e = next(e for e in sweep(found, "coupled", *BASE, "stochastic") if e["eta"] == 2.0**-5)
    a, b = figures["groups"], e["floor"]
    return text + f"{a[0]:.5f} ± {a[1]:.5f}; with all runs in one tensor {b[0]:.5f} ± {b[1]:.5f}"


def plot(figures: dict[str, Any]) -> None:
    """Floors against step sizes, as delta and as d vary, with the derived ones dashed; far starts on the right."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # smaller
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 3, figsize=(12, 7.5))
    for row, problem in zip(axes, ("separable", "coupled"), strict=True):
        settings = [s for s in SETTINGS if s[1] == BASE[1]], [s for s in SETTINGS if s[0] == BASE[0]]
        for axis, some in zip(row, settings, strict=False):
            for number, (power, d) in enumerate(sorted(some)):
                line = sweep(figures["found"], problem, power, d, "stochastic")
                x, color = [e["eta"] for e in line], plt.get_cmap("viridis")(number / len(some))
                name = f"delta 2^-{power}" if some is settings[0] else f"d = {d}"
                axis.plot(x, [e["floor"][0] for e in line], "o-", ms=3, color=color, label=name)
                axis.plot(x, [e["bound"]["near"]["derived"] for e in line], "--", lw=0.8, color=color)
                axis.axvline(formula(line[0]), color=color, lw=0.5)
            axis.set_title(f"{problem}: floor, stochastic; dashed derived", fontsize=8)
        for rounding, color in zip(ROUNDINGS, ("tab:blue", "tab:red"), strict=True):
            line = sweep(figures["found"], problem, *BASE, rounding)
            x = [e["eta"] for e in line]
            row[2].plot(x, [e["far"][0] for e in line], "o-", ms=3, color=color, label=rounding)
            row[2].plot(x, [e["bound"]["far"]["derived"] for e in line], "--", lw=0.8, color=color)
        row[2].axhline(line[0]["L0"] ** 2, color="gray", lw=0.8, label="L0²")
        row[2].axvline(math.sqrt(BASE[1]) * line[0]["delta"] / (2 * line[0]["L0"]), color="tab:red", lw=0.5)
        row[2].set_title(f"{problem}: all iterates from a far start", fontsize=8)
        for axis in row:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.minorticks_off()
            axis.tick_params(labelsize=7, which="both")
            axis.legend(fontsize=6)
    fig.supxlabel("step size eta", fontsize=9)
    fig.supylabel("mean squared norm of the smoothed gradient", fontsize=9)
    fig.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run, which writes nothing")
    parser.add_argument("--report", action="store_true", help="print the tables of the last run, and draw its picture")
    args = parser.parse_args()
    if args.report:
        plot(kept("lowbit_floor"))
        print(report(kept("lowbit_floor")))
        return
    torch.set_num_threads(1)
    steps, runs = (64, 4) if args.quick else (2048, 12)
    figures: dict[str, Any] = {"steps": steps, "runs": runs, "found": run(steps, runs, SETTINGS, TO_NEAREST)}
    figures["groups"] = by_groups(BASE[0], 2.0**-5, steps, 4)
    if not args.quick:
        write("lowbit_floor", figures, "scipy", "numpy")
        plot(figures)
    print(report(figures))


if __name__ == "__main__":
    main()
