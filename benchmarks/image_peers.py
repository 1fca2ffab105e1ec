"""Image generators of others, run by `images.py` in an environment of their own.

python image_peers.py NAME DATA.npz SECONDS SEED N OUT.npz
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 64


def batches(x: Tensor, seconds: float, size: int = BATCH) -> Any:
    """Random batches until the CPU seconds are over."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        yield x[torch.randint(len(x), (size,))]


def ddpm(x: Tensor, seconds: float, n: int) -> tuple[Tensor, float, float]:
    """UNet2DModel of diffusers with its DDPM scheduler, sampled in 25 steps of its DDIM scheduler."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    average = [p.detach().clone() for p in network.parameters()]
    start = time.process_time()
    for k, clean in enumerate(batches(x, seconds)):
        noise, t = torch.randn_like(clean), torch.randint(1000, (len(clean),))
        loss = nn.functional.mse_loss(network(scheduler.add_noise(clean, noise, t), t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, list(network.parameters()), 1 - min(0.999, (k + 1) / (k + 10)))
    fitted = time.process_time()
    with torch.no_grad():
        for p, mean in zip(network.parameters(), average, strict=True):
            p.copy_(mean)
        sampler = DDIMScheduler.from_config(scheduler.config)
        sampler.set_timesteps(25)
        parts = []
        for size in [250] * (n // 250):
            sample = torch.randn(size, 1, 28, 28)
            for t in sampler.timesteps:
                sample = sampler.step(network(sample, t).sample, t, sample).prev_sample
            parts.append(sample)
    return torch.cat(parts), fitted - start, time.process_time() - fitted


def dcgan(x: Tensor, seconds: float, n: int) -> tuple[Tensor, float, float]:
    """Radford, Metz and Chintala, "Unsupervised representation learning with DCGANs", ICLR 2016."""
    generator = nn.Sequential(
        *(nn.ConvTranspose2d(64, 128, 7), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh()),
    )
    critic = nn.Sequential(
        *(nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(128, 1, 7), nn.Flatten(0)),
    )
    for module in (*generator, *critic):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
    adams = [torch.optim.Adam(m.parameters(), 2e-4, betas=(0.5, 0.999)) for m in (generator, critic)]
    loss = nn.functional.binary_cross_entropy_with_logits
    start = time.process_time()
    for real in batches(x, seconds):
        made = generator(torch.randn(len(real), 64, 1, 1))
        told = critic(real), critic(made.detach())
        adams[1].zero_grad()
        (loss(told[0], torch.ones_like(told[0])) + loss(told[1], torch.zeros_like(told[1]))).backward()
        adams[1].step()
        fooled = critic(made)
        adams[0].zero_grad()
        loss(fooled, torch.ones_like(fooled)).backward()
        adams[0].step()
    fitted = time.process_time()
    with torch.no_grad():
        parts = [generator(torch.randn(250, 64, 1, 1)) for _ in range(n // 250)]
    return torch.cat(parts), fitted - start, time.process_time() - fitted


def pythae_vae(x: Tensor, seconds: float, n: int) -> tuple[Tensor, float, float]:
    """The VAE of pythae with its own networks, by the settings of its README, drawn from its prior."""
    from pythae.models import VAE, VAEConfig
    from pythae.samplers import NormalSampler

    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    start = time.process_time()
    for images in batches((x + 1) / 2, seconds, 200):
        optimizer.zero_grad()
        model({"data": images}).loss.backward()
        optimizer.step()
    fitted = time.process_time()
    model.eval()
    made = NormalSampler(model).sample(n, batch_size=250).reshape(-1, 1, 28, 28)
    return 2 * made.cpu() - 1, fitted - start, time.process_time() - fitted


def main() -> None:
    name, data, seconds, seed, n, out = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))  # noqa: TID251 - for models that draw from the global one
    with np.load(data) as file:
        x = torch.from_numpy(file["x_train"].astype(np.float32) / 127.5 - 1)[:, None]
    peer = {"DDPM": ddpm, "DCGAN": dcgan, "PythaeVAE": pythae_vae}[name]
    made, fit, generate = peer(x, float(seconds), int(n))
    images = ((made[:, 0].clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    np.savez(out, images=images, fit=fit, generate=generate)


if __name__ == "__main__":
    main()
