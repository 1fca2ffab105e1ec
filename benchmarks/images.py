"""Generated images of Fashion-MNIST judged beside those of peers that had the same CPU seconds.

    python benchmarks/images.py                                        # Diffusion, 120 CPU seconds
    python benchmarks/images.py --seconds 600 --write
    python benchmarks/images.py --models Diffusion,VAE,DDPM,DCGAN --peers python3.11 --write
    python benchmarks/images.py --data emoji --seconds 600 --write     # in colour

The judge is a small convolutional network that names at least 92 % of the test images; it is trained once, in
about three minutes, and kept in build/images. Figures are of its 128 features of 2,000 generated images: the
Fréchet distance to the 10,000 test images (not to be compared with one of Inception's features), precision,
recall, density and coverage beside 2,000 test images, and how often the judge names the class asked for,
where classes can be asked for. "real" are training images as if they were generated. One thread. Ours take as
many steps as the first ones say that the seconds allow; "fit s" are the CPU seconds they took, and "whole s"
those of fit as a whole, which remembers images and calibrates scores beside.

Where Diffusion is among the models, or Hybrid, whose teacher it then is, there follow samplers of fewer and
of more steps, of other guidance and autoguidance, with the same weights. Of each of ours, or of that teacher,
centres of 500 test images, a quarter of their pixels, are filled without being told the label. "rmse" is
that of the mean of 10 draws, beside the mean of training images; "covers" is the share of hidden pixels whose
rank among 19 draws lies in the middle 80 % (ties by chance: nearly all draws agree on the background);
"named" tells how often the judge is right on one draw, beside the whole image.

`--data emoji` takes Twemoji of 32 x 32 in colour, a fifth of them, with all their variants, to test with;
what is asked for are test images' categories, which its judge, trained on the others and on Noto's drawings
of them, names less surely.

The peers (`image_peers.py`) live in build/images_peers, which `--peers` makes from the interpreter it names:
diffusers' DDPM on its UNet2DModel, and a DCGAN, each trained until the seconds are over. More about images is
measured by `image_vae.py`, `image_gan.py`, `image_anomaly.py` and `image_augmentation.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from peers import interpreter
from safetensors.torch import load_file, save_file
from torch import nn

import lookalike as la
from lookalike.evaluation.manifolds import frechet_distance, likeness

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "images" / "fashion_mnist.npz"
EMOJI = DATA.with_name("emoji_captioned_pairs.npz")
KEPT = HERE.parent / "build" / "images"
N = 2000  # generated images
LEAST_ACCURATE = {"fashion": 0.92, "emoji": 0.7}
PEERS = ("DDPM", "DCGAN")
SAMPLERS: tuple[dict[str, Any], ...] = (
    *({"n_steps": n} for n in (2, 3, 4, 8, 32)),
    *({"n_steps": 8, "guidance": g} for g in (1.0, 2.0, 3.0)),
    *({"n_steps": 8, "autoguidance": g} for g in (1.0, 2.0)),
)


def fashion() -> dict[str, np.ndarray]:
    """Images, their labels by number, and the labels to ask for."""
    with np.load(DATA) as file:
        return {**file, "asked": asked()}


def emoji() -> dict[str, np.ndarray]:
    """Twemoji and their categories likewise; beside them what the judge learns from instead."""
    with np.load(EMOJI) as file:
        whose = np.unique([caption.split(":")[0] for caption in file["caption"]], return_inverse=True)[1]
        _, category = np.unique(file["category"], return_inverse=True)
        x, other = file["twemoji"], file["noto"]
    test = np.random.default_rng(0).permutation(whose.max() + 1)[whose] % 5 == 0
    return {
        "x_train": x[~test],
        "y_train": category[~test],
        "x_test": x[test],
        "y_test": category[test],
        "asked": category[test][np.arange(N) * test.sum() // N],
        "x_judge": np.concatenate([x[~test], other[~test]]),
        "y_judge": np.tile(category[~test], 2),
    }


SETS = {"fashion": fashion, "emoji": emoji}


class Judge(nn.Module):
    """Names images; what it makes of them before are the features."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU()),
        )
        self.classes = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(images))

    @torch.inference_mode()
    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, 128) and classes (n,)."""
        found = [self.features(part) for part in tensor(images).split(500)]
        features = torch.cat(found)
        return features.double().numpy(), self.classes(features).argmax(1).numpy()


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.reshape(*images.shape[:3], -1).astype(np.float32) / 255).permute(
        0, 3, 1, 2
    )


def judge(data: dict[str, np.ndarray], name: str = "fashion") -> Judge:
    """The kept one, or one trained anew."""
    torch.manual_seed(0)  # noqa: TID251 - layers of torch draw from the global one
    images, named = (data.get(f"{part}_judge", data[f"{part}_train"]) for part in ("x", "y"))
    network, kept = Judge(images.shape[1], math.prod(images.shape[3:])), KEPT / f"{name}.safetensors"
    if kept.exists():
        network.load_state_dict(load_file(kept))
    else:
        x, y = tensor(images), torch.from_numpy(named.astype(np.int64))
        optimizer, epochs = torch.optim.Adam(network.parameters(), 2e-3), max(6, 60_000 // len(x))
        for k in range(epochs):
            for i in torch.randperm(len(x)).split(128):
                batch = torch.where(torch.rand(len(i), 1, 1, 1) < 0.5, x[i], x[i].flip(3))
                loss = nn.functional.cross_entropy(network(batch), y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - (k + 1) / epochs) + 1e-4
        KEPT.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), kept)
    network.eval()
    accurate = (network.look(data["x_test"])[1] == data["y_test"]).mean()
    if accurate < LEAST_ACCURATE[name]:
        raise SystemExit(f"the judge names {accurate:.1%} of the test images: remove {kept} and try again")
    print(f"the judge names {accurate:.1%} of the test images")
    return network


def asked() -> np.ndarray:
    return np.arange(N) % 10


def trained(
    name: str, table: Any, seconds: float, seed: int, options: dict[str, Any]
) -> tuple[Any, float, float]:
    """A model that learned for these CPU seconds, how many it learned for, and those of fit as a whole."""

    def fit(n_steps: int) -> tuple[Any, float]:
        """The model, and the CPU seconds of a step."""
        at: list[tuple[int, float]] = []
        model = getattr(la, name)(
            max_steps=n_steps,
            early_stopping=False,
            random_state=seed,
            callbacks=[lambda told: at.append((told.step, time.process_time()))],
            **options,
        ).fit(table)
        (first, then), (last, now) = at[0], at[-1]
        return model, (now - then) / (last - first)

    _, pace = fit(100)
    start = time.process_time()
    model, pace = fit(int(seconds / pace))
    return model, pace * model.n_iter_, time.process_time() - start


def ours(name: str, options: dict[str, Any]) -> Callable[[dict[str, np.ndarray], float, int], Any]:
    def run(data: dict[str, np.ndarray], seconds: float, seed: int) -> Any:
        table = {"image": data["x_train"], "label": data["y_train"].astype(str)}
        model, fit, whole = trained(name, table, seconds, seed, options)
        start = time.process_time()
        made = model.generate(given={"label": data["asked"].astype(str)}, random_state=seed)["image"]
        return made, fit, time.process_time() - start, model, whole

    return run


def teacher_of(hybrid: Any) -> Any:
    """The diffusion model from which a student learned, as `Diffusion` would have it."""
    state = hybrid._state
    model = la.Diffusion(width=state.width, n_steps=6)
    teacher = model._build(state.codec.layout, torch.Generator(), state.width)
    teacher.load_state_dict(state.model.teacher.state_dict())
    model._learn(state._replace(model=teacher))
    return model


def filled(say: Callable[[str], None], network: Judge, data: dict[str, np.ndarray], model: Any) -> None:
    """Tell how centres are filled."""
    real = data["x_test"][:500]
    hole, side = np.zeros(real.shape, dtype=bool), real.shape[1]
    hole[:, side // 4 : side - side // 4, side // 4 : side - side // 4] = True
    holey = {"image": np.ma.masked_array(real, hole), "label": np.full(500, None, dtype=object)}
    draws = np.stack([d["image"] for d in model.impute(holey, n_draws=19, random_state=0)]).astype(float)
    true = real.astype(float)

    def rmse(guess: np.ndarray) -> float:
        return float(np.sqrt(((guess - true)[hole] ** 2).mean()))

    below, ties = ((draws < true).sum(0), (draws == true).sum(0))
    rank = (below + np.random.default_rng(0).random(true.shape) * (ties + 1))[hole] / 20
    one, whole = (network.look(x)[1] == data["y_test"][:500] for x in (draws[0], real))
    mean = data["x_train"].mean(0)
    say(
        f"centres filled: rmse {rmse(draws[:10].mean(0)):.1f} (mean image {rmse(mean):.1f})"
        f", covers {((rank > 0.1) & (rank < 0.9)).mean():.3f}, named {one.mean():.3f} ({whole.mean():.3f})"
    )


def peer(name: str, python: str) -> Callable[[dict[str, np.ndarray], float, int], Any]:
    def run(data: dict[str, np.ndarray], seconds: float, seed: int) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "made.npz"
            command = [interpreter(python, "images_peers"), HERE / "image_peers.py", name, DATA]
            subprocess.run([*map(str, command), str(seconds), str(seed), str(N), str(out)], check=True)
            found = np.load(out)
            return found["images"], float(found["fit"]), float(found["generate"]), None, float(found["fit"])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="Diffusion", help=f"ours, or of {', '.join(PEERS)}")
    parser.add_argument("--data", default="fashion", choices=SETS)
    parser.add_argument("--options", default="{}", help="of ours, as JSON")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--peers", default="", help="a Python of which the peers' environment is made")
    parser.add_argument("--write", action="store_true", help="add what is printed to benchmarks/results")
    parser.add_argument("--picture", type=Path, help="where the first hundred images of each model go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"$ python benchmarks/images.py {shlex.join(sys.argv[1:])}"]

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    data = SETS[args.data]()
    network = judge(data, args.data)
    features, named = network.look(data["x_test"])
    say(f"of real test images the judge names {(named == data['y_test']).mean():.3f} rightly")
    say(f"{'':24s} seed  fit s  whole s  ms/image  Frechet  label  precision recall density coverage")

    def told(
        name: str, seed: int, made: np.ndarray, fit: float, whole: float, generate: float, label: bool
    ) -> None:
        seen, classes = network.look(made)
        near = likeness(features[:N], seen)
        right = f"{(classes == data['asked']).mean():.3f}" if label else "    -"
        far = frechet_distance(features, seen)
        say(
            f"{name:24s} {seed:4d} {fit:6.0f} {whole:8.0f} {1e3 * generate / N:9.2f} {far:8.2f}"
            f"  {right}  {near.precision:9.2f} {near.recall:6.2f} {near.density:7.2f} {near.coverage:8.2f}"
        )

    told("real", 0, data["x_train"][:N], 0, 0, 0, False)
    for name in filter(None, args.models.split(",")):
        run = peer(name, args.peers) if name in PEERS else ours(name, json.loads(args.options))
        for seed in range(args.seed, args.seed + args.seeds):
            made, fit, generate, model, whole = run(data, args.seconds, seed)
            told(name, seed, made, fit, whole, generate, name not in PEERS)
            if name == "Hybrid":
                model = teacher_of(model)
            if name in ("Diffusion", "Hybrid"):
                for sampler in SAMPLERS:
                    start = time.process_time()
                    made_so = model.with_sampler(**sampler).generate(
                        given={"label": data["asked"].astype(str)}, random_state=seed
                    )
                    words = ", ".join(f"{key}={value}" for key, value in sampler.items())
                    told(words, seed, made_so["image"], 0, 0, time.process_time() - start, True)
            if model is not None:
                filled(say, network, data, model)
            if args.picture:
                args.picture.mkdir(parents=True, exist_ok=True)
                la.contact_sheet(made[:100], args.picture / f"{name}.png", columns=10)
    if args.write:
        with (HERE / "results" / f"{args.data}_{args.seconds:.0f}s.txt").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
