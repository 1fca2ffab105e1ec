# %% [markdown]
# # Holes in a record of the weather, filled, and how sure that is
#
# A fifth of the measurements of some hours at the airports of New York are hidden, filled in given the rest
# of the hour, and compared with what was there.

# %%
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from nycflights import read_weather

import lookalike as la

torch.set_num_threads(1)  # networks this small gain nothing from more
out = Path("output")
out.mkdir(exist_ok=True)
measured = ["temp", "dewp", "humid", "pressure", "visib"]
weather = read_weather()[["origin", "month", "hour", *measured]].dropna().sample(4500, random_state=0)
hours, learned = weather[:500], weather[500:]
lost = np.random.default_rng(0).random((len(hours), len(measured))) < 0.2
holes = hours.copy()
holes[measured] = holes[measured].mask(lost)
print(f"{len(learned):,} hours to learn from; {lost.sum()} measurements hidden in {len(hours)} others")

# %% [markdown]
# ## Fill
#
# Each hole is drawn twenty times given what is known of its hour. The mean of the draws is nearest to what
# was lost; one draw is as varied as real hours are. How far the draws lie apart says how sure they are:
# eight in ten of what was lost should lie in the central 80 % of them.

# %%
model = la.Diffusion(max_steps=800, random_state=0).fit(learned)
draws = np.stack([table[measured] for table in model.impute(holes, n_draws=20, random_state=0)])
low, middle, high = np.quantile(draws, 0.1, axis=0), draws.mean(0), np.quantile(draws, 0.9, axis=0)
truth = hours[measured].to_numpy()

print(f"\n{'error, in standard deviations':32}{'filled':>9}{'column mean':>13}{'in the 80 %':>13}")
for j, name in enumerate(measured):
    hidden = lost[:, j]
    spread = learned[name].std()
    filled = np.sqrt(np.mean((middle - truth)[hidden, j] ** 2)) / spread
    guess = np.sqrt(np.mean((learned[name].mean() - truth[hidden, j]) ** 2)) / spread
    inside = np.mean((low <= truth) & (truth <= high), where=lost[:, j : j + 1], axis=0)[j]
    print(f"{name:32}{filled:9.2f}{guess:13.2f}{inside:13.0%}")

# %% [markdown]
# Temperature, dew point and humidity follow from each other: two of them say what the third is, and where
# one alone is left the draws lie apart. The pressure follows from little else in the table. Its draws say
# so, if not loudly enough: fewer than eight in ten of the hidden values lie among them.

# %%
figure = Figure((12, 5), layout="constrained")
titles = {0: "temperature, °F", 3: "pressure, millibars"}
for (j, title), ax in zip(titles.items(), figure.subplots(1, 2), strict=True):
    at = np.flatnonzero(lost[:, j])
    at = at[np.argsort(truth[at, j], kind="stable")]
    x = np.arange(len(at))
    ax.vlines(x, low[at, j], high[at, j], color="#31688e", alpha=0.35, lw=2, label="central 80 % of 20 draws")
    ax.scatter(x, middle[at, j], s=9, color="#31688e", label="their mean")
    ax.scatter(x, truth[at, j], s=9, color="#e8833a", label="what was hidden")
    ax.set(title=title, xlabel="hidden measurements, by size")
figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure.savefig(out / "holes.png", dpi=110)
print(f"\n{out / 'holes.png'} shows temperature and pressure.")
