# %% [markdown]
# # Tumours that are not like benign ones
#
# A model learns from 250 benign tumours what these look like, and judges others, benign and malignant:
# which are odd, which may be reported so that few reports are false, and why. The measurements of Wisconsin
# come with scikit-learn.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer

import lookalike as la

out = Path("output")
out.mkdir(exist_ok=True)
tumours = load_breast_cancer(as_frame=True)
table = tumours.data.filter(like="mean").rename(columns=lambda name: name.removeprefix("mean "))
benign, malignant = table[tumours.target == 1], table[tumours.target == 0]
learned = benign.sample(250, random_state=0)
judged = pd.concat([benign.drop(learned.index), malignant.sample(60, random_state=0)])
truth = judged.index.isin(malignant.index)
print(f"{len(learned)} benign tumours to learn from; {len(judged)} to judge, {truth.sum()} malignant")

# %% [markdown]
# ## Decide
#
# A tenth of 250 rows, held out, would say little. In folds each row is judged by a model that has not seen
# it, and all 250 calibrate. A p-value of 0.03 says: of benign tumours 3 % look as odd as this one.

# %%
model = la.CrossConformal(la.Mixture(random_state=0), random_state=0).fit(learned)
p = model.p_values(judged)
FDR = 0.1
for fdr in (0.05, FDR, 0.2):
    chosen = la.select(p, fdr=fdr)
    false = (chosen & ~truth).sum()
    print(f"at most {fdr:.0%} false in the mean: {chosen.sum()} reported, {false} of them benign")
usual = model.predict(judged) == -1
print(f"predict, which calls 5 % of benign ones odd: {usual.sum()}, {(usual & ~truth).sum()} of them benign")

# %% [markdown]
# The rate is kept in the mean over many such tables, not in each. At a bound of 5 % so few rows may be
# false that many malignant tumours are not reported.
#
# ## Explain
#
# Which measurements make a tumour odd, and what would have been usual given the others? A denoiser is
# asked, for it follows smooth columns best.

# %%
detector = la.Detector(random_state=0, max_steps=500).fit(learned)
reported = judged[la.select(p, fdr=FDR)]
oddest = reported.iloc[np.argsort(detector.score_samples(reported), kind="stable")[:5]]
why = detector.explain(oddest)
print(why)

# %%
figure = Figure((12, 4.6), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
order = np.argsort(p, kind="stable")
rank = np.arange(1, len(p) + 1)
for kind, name, colour in ((False, "benign", "#31688e"), (True, "malignant", "#b5223c")):
    shown = truth[order] == kind
    left.scatter(rank[shown], p[order][shown], s=12, color=colour, label=name)
left.plot(rank, FDR * rank / len(p), color="#8a8a8a", label=f"bound of a rate of {FDR:.0%}")
left.axvspan(0, la.select(p, fdr=FDR).sum() + 0.5, color="#8a8a8a", alpha=0.15, lw=0, label="reported")
left.set(xlabel="rank among the tumours judged", ylabel="p-value", yscale="log", title="Which are reported")
left.legend(loc="lower right")
la.plot_explanation(why, row=0, ax=right)
figure.savefig(out / "anomalies.png", dpi=110)
print(f"{out / 'anomalies.png'} shows both.")
