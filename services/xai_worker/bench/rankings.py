"""Every way to rank residues that the benchmark compares: the methods that gowhy offers, and simpler ones beside them.

To add one: a function below, a line in RANKINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.nn import functional

from services.xai_worker.explainers import Explainer, ResiduePath
from services.xai_worker.explainers.expected_gradients import ExpectedGradients
from services.xai_worker.explainers.integrated_gradients import IntegratedGradients
from services.xai_worker.explainers.occlusion import Occlusion
from services.xai_worker.explainers.pooled_exact import PooledExact
from shared.digests import sha256_bytes
from shared.nn.encoders import Encoder
from shared.nn.encoders.base import STANDARD_RESIDUES
from shared.nn.encoders.encoder import TransformerEncoder
from shared.nn.encoders.esm2 import Esm2Network, rotation
from shared.nn.encoders.packing import Run, positions, rotate

FloatArray = np.ndarray
PRIOR_COUNT = 1.0  # pseudo-count of each amino acid

RANKINGS: Mapping[str, Callable[[], Explainer]] = {
    "occlusion": Occlusion,
    "occlusion_5": lambda: Occlusion(5),
    "integrated_gradients": IntegratedGradients,
    "expected_gradients": lambda: ExpectedGradients(draws=8),
    "pooled_exact": PooledExact,
}
DEFAULT = "occlusion"


def ranked(path: ResiduePath, name: str) -> FloatArray:
    """Values [asked terms, residues] of one entry of RANKINGS."""
    return np.stack([made.values for made in RANKINGS[name]().attribute(path, lambda _: None)])


def gradients(path: ResiduePath) -> dict[str, FloatArray]:
    """Saliency (length of the gradient) and input x gradient: simple, and known to mislead; [asked terms, residues]."""
    inputs = path.inputs().detach().clone().requires_grad_(True)
    logits = path.logits(inputs)
    saliency, product = [], []
    for column in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[0, column], inputs, retain_graph=True)
        saliency.append(gradient[0].norm(dim=-1).double().numpy())
        product.append((gradient * inputs.detach())[0].sum(-1).double().numpy())
    return {"saliency": np.stack(saliency), "input_x_gradient": np.stack(product)}


def random_order(sequence: str) -> FloatArray:
    """[residues]; equal sequences have equal orders."""
    return np.random.default_rng(int(sha256_bytes(b"random" + sequence.encode())[:16], 16)).random(len(sequence))


def amino_acid_prior(examples: Mapping[str, frozenset[int]]) -> Mapping[str, float]:
    """Log-odds of being a site by amino acid, from sequences with their sites (1-based); never from those it is used on."""
    sites, others = dict.fromkeys(STANDARD_RESIDUES, PRIOR_COUNT), dict.fromkeys(STANDARD_RESIDUES, PRIOR_COUNT)
    for sequence, found in examples.items():
        for position, letter in enumerate(sequence, start=1):
            if letter in sites:
                (sites if position in found else others)[letter] += 1
    total, rest = sum(sites.values()), sum(others.values())
    return {a: float(np.log(sites[a] / total) - np.log(others[a] / rest)) for a in STANDARD_RESIDUES}


def by_prior(sequence: str, prior: Mapping[str, float]) -> FloatArray:
    """[residues]; a letter that is no amino acid has no information."""
    return np.array([prior.get(letter, 0.0) for letter in sequence])


@torch.inference_mode()
def encoder_controls(encoder: Encoder, sequence: str) -> dict[str, FloatArray]:
    """What a language model says of residues without any term: attention received, and certainty of its own prediction.

    The certainty is minus the entropy over the 20 amino acids of the last hidden states, read out by the
    input embeddings: ESM-2 ties them to its language-model head, whose own layer the encoder leaves out.
    Sequences beyond the window are read up to it; the rest is missing. Empty for other families than ESM-2.
    """
    if not isinstance(encoder, TransformerEncoder) or not isinstance(encoder.network, Esm2Network):
        return {}
    network, seen = encoder.network, sequence[: encoder.window]
    tokens = [*network.alphabet.before, *network.alphabet.encode(seen).tolist(), *network.alphabet.after]
    x = network.rescale(network.table()[tokens], 0, len(tokens))
    heads, width = network.shape.heads, network.shape.dim // network.shape.heads
    cos, sin = rotation(positions([Run(1, len(tokens))], x.device), width, x.dtype)
    received = torch.zeros(len(tokens))
    layers = network.module.encoder.layer  # type: ignore[union-attr]
    for layer in layers:  # type: ignore[union-attr]
        attention = layer.attention.self
        u = layer.attention.LayerNorm(x)
        query = rotate((attention.query(u) * width**-0.5).unflatten(-1, (heads, width)), cos, sin)
        key = rotate(attention.key(u).unflatten(-1, (heads, width)), cos, sin)
        value = attention.value(u).unflatten(-1, (heads, width))
        weights = torch.einsum("qhw,khw->hqk", query, key).softmax(-1)
        received += weights.mean(dim=(0, 1))
        seen_by = torch.einsum("hqk,khw->qhw", weights, value).flatten(1)
        x = x + layer.attention.output.dense(seen_by)
        x = x + layer.output.dense(functional.gelu(layer.intermediate.dense(layer.LayerNorm(x))))
    last = network.module.encoder.emb_layer_norm_after(x)[1:-1]  # type: ignore[union-attr,operator]
    letters = network.table()[network.alphabet.encode(STANDARD_RESIDUES)]
    shares = (last @ letters.T).log_softmax(-1)
    certainty = (shares.exp() * shares).sum(-1)
    return {
        "attention": _padded(received[1:-1], len(sequence)),
        "plm_entropy": _padded(certainty, len(sequence)),
    }


def _padded(values: torch.Tensor, length: int) -> FloatArray:
    found = np.full(length, np.nan)
    found[: len(values)] = values.double().numpy()
    return found
