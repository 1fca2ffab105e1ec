"""How much a model computes for a row, counted while it computes for a few: see `lookalike.costs.Macs`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lookalike.costs import Macs
from lookalike.layout import Rows
from lookalike.models.family import Family, Model
from lookalike.verbs import Completer, Scorer

COUNTED = 16  # rows


def macs(scorer: Scorer) -> Macs:
    """Count what a fitted model computes for a row, on rows near those it remembers."""
    rows, model = _few(scorer), scorer.model
    draw = _to_draw(Completer(scorer.codec, model, False)) if isinstance(model, Family) else None
    return Macs(_to_train(model, rows), macs_to_score(scorer), draw)


def macs_to_score(scorer: Scorer) -> int:
    """Count those of a row that is scored."""
    shown = scorer.expected(_few(scorer).to("cpu"))
    with torch.inference_mode(), _Counter() as counter:
        scorer.energies(*shown)
    return counter.macs // COUNTED


def _to_train(model: Model, rows: Rows) -> int:
    model = copy.deepcopy(model).requires_grad_(True)  # some move themselves in a step
    generator = torch.Generator(rows.numbers.device).manual_seed(0)
    mean = 0.0
    for k, stage in enumerate(model.stages):
        model.start_stage(k)
        with _Counter() as counter:
            for loss, parameters in model.objectives(rows, generator):
                if parameters:
                    torch.autograd.grad(loss, parameters, allow_unused=True)
        mean += stage.steps * counter.macs
    return round(mean / COUNTED)


def _to_draw(completer: Completer) -> int:
    layout = completer.codec.layout
    nothing = torch.full((COUNTED, layout.n_numbers), torch.nan, dtype=torch.float64)
    ids = torch.full((COUNTED, len(completer.codec.counts)), -1)
    known = torch.zeros(nothing.shape, dtype=torch.bool), torch.zeros(ids.shape, dtype=torch.bool)
    noise = [torch.full((COUNTED, size), 0.5) for size in completer.noise_size]
    with torch.inference_mode(), _Counter() as counter:
        completer(nothing, ids, *known, *noise)
    return counter.macs // COUNTED


def _few(scorer: Scorer) -> Rows:
    device = scorer.memory.rows.device
    return scorer.memory.draw(COUNTED, torch.Generator(device).manual_seed(0))


class _Counter(TorchDispatchMode):
    """Adds up by torch's formulas; its own `FlopCounterMode` cannot see gradients of gradients."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch states none
        self.macs = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, formula = kwargs or {}, flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # what is made of others, such as linear layers, counts as these
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.macs += int(formula(*args, **kwargs, out_val=out)) // 2
        return out
