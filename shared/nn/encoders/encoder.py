"""The encoder: windows, special tokens and pooling around a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor

from shared.config.embed import EncoderConfig
from shared.errors import DataError
from shared.nn.encoders.base import POOLING_VERSION, STANDARD_RESIDUES, Network
from shared.nn.encoders.engine import Engine
from shared.nn.encoders.packing import Run
from shared.nn.encoders.weights import Weights
from shared.nn.encoders.windows import Window, windows


class Piece(NamedTuple):
    """One window of one sequence of a call."""

    row: int
    window: Window


class TransformerEncoder:
    """An `Encoder` made of a network; see there for the methods' meaning.

    On a CPU every window goes through the model alone, on one core. There packing gains nothing, and
    like this a vector depends neither on what else is in the call nor on the number of threads, by
    construction. On a GPU windows are packed, without padding, up to `tokens_per_batch`.
    """

    def __init__(self, config: EncoderConfig, network: Network, weights: Weights, device: torch.device) -> None:
        self.name = config.name
        self.dim = network.shape.dim
        self.weights_label = weights.label
        self.weights_sha256 = weights.sha256
        self.window, self.overlap, self.tokens_per_batch = config.window, config.overlap, config.tokens_per_batch
        self.device = device
        self.order_free = device.type == "cpu"
        self.dtype: str = config.dtype
        self.network = network
        network.module.to(device).eval().requires_grad_(False)

    @cached_property
    def _engine(self) -> Engine:
        """Made when the first sequence comes: the differentiable paths do without its copy of the weights."""
        special = len(self.network.alphabet.before + self.network.alphabet.after)
        return Engine(self.network.stack(), getattr(torch, self.dtype), self.window + special)

    @property
    def engine(self) -> str:
        """The code that computes vectors."""
        return self._engine.name

    def describe(self) -> dict[str, Any]:
        """JSON record that `load_encoder` takes back."""
        return {
            "name": self.name,
            "arch": self.network.shape.describe(),
            "dim": self.dim,
            "weights": self.weights_label,
            "weights_sha256": self.weights_sha256,
            "options": {
                "window": self.window,
                "overlap": self.overlap,
                "dtype": self.dtype,
                "pooling": POOLING_VERSION,
            },
            "transformers": transformers.__version__,
        }

    def embed(self, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Pooled vectors [n, dim].

        Raises:
            DataError: an empty sequence.
        """
        batches = self._batches(sequences)
        _ = self._engine  # before there are threads
        vectors = torch.zeros(len(sequences), self.dim)
        for batch, shares in zip(batches, self._each(partial(self._shares, sequences), batches), strict=True):
            for piece, share in zip(batch, shares, strict=True):
                vectors[piece.row] += share
        return vectors.numpy()

    def _shares(self, sequences: Sequence[str], batch: list[Piece]) -> Tensor:
        """What each window of a batch adds to its sequence's vector, [windows, dim], on the CPU.

        A batch that is too large for the device goes through in halves.
        """
        try:
            return self._computed(sequences, batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        return torch.cat([self._shares(sequences, batch[:middle]), self._shares(sequences, batch[middle:])])

    @torch.inference_mode()
    def _computed(self, sequences: Sequence[str], batch: list[Piece]) -> Tensor:
        framed = [self._framed(self._lookup(sequences[row][w.start : w.stop])) for row, w in batch]
        lengths = [len(tokens) for tokens in framed]
        states = self._engine.states(torch.cat(framed), lengths).split(lengths)
        shares = [self._share(hidden, w, len(sequences[row])) for (row, w), hidden in zip(batch, states, strict=True)]
        return torch.stack(shares).float().cpu()

    def _each(self, work: Callable[[list[Piece]], Tensor], batches: list[list[Piece]]) -> Iterator[Tensor]:
        """Results in order. On a CPU each core works on a batch of its own.

        Cores that share every operator wait for each other at its end; where other programs run,
        that was measured to be ten times slower.
        """
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            yield from map(work, batches)
            return
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(work, batches)
        finally:
            # The workers' setting is also what threads that start later begin with.
            torch.set_num_threads(threads)

    @torch.no_grad()
    def residues(self, sequence: str) -> Tensor:
        """Last hidden states [L, dim] on the CPU; their mean is the pooled vector."""
        states = []
        for window in self._windows(len(sequence)):
            framed = self._framed(self._lookup(sequence[window.start : window.stop]))
            states.append(self._owned(self._engine.states(framed, [len(framed)]), window))
        return torch.cat(states).cpu()

    def tokenise(self, sequence: str) -> Tensor:
        """Token ids [L] int64 of the residues, without special tokens."""
        return torch.from_numpy(self.network.alphabet.encode(sequence)).to(self.device)

    def embed_tokens(self, sequence: str) -> Tensor:
        """Input embeddings [L, D] of the residues: the rows of the embedding table, not rescaled."""
        return self._lookup(sequence)

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        """Pooled vectors [B, dim] from residue embeddings [B, L, D]; differentiable."""
        return self._forward(embedded, frozenset())

    def mean_residue(self) -> Tensor:
        """Mean input embedding [D] of the 20 amino acids."""
        return self._lookup(STANDARD_RESIDUES).mean(0)

    def mask_residue(self) -> Tensor:
        """Input embedding [D] of a masked residue.

        In `forward_embedded` it is one more residue; ESM-2 also rescales the others when it sees
        mask tokens, which only `masked` does.
        """
        return self.network.mask_row()

    @torch.no_grad()
    def masked(self, sequence: str, positions: Sequence[int]) -> Tensor:
        """Pooled vector [dim] with mask tokens at 0-based `positions`.

        Raises:
            IndexError: a position outside the sequence.
        """
        hidden = frozenset(positions)
        if any(not 0 <= position < len(sequence) for position in hidden):
            raise IndexError(f"positions {sorted(hidden)} are not all in a sequence of {len(sequence)} residues")
        embedded = self._lookup(sequence)
        embedded[list(hidden)] = self.network.mask_row()
        return self._forward(embedded[None], hidden)[0]

    def _forward(self, embedded: Tensor, hidden: frozenset[int]) -> Tensor:
        pooled = embedded.new_zeros(len(embedded), self.dim)
        for window in self._windows(embedded.shape[1]):
            masked = sum(window.start <= position < window.stop for position in hidden)
            framed = self._framed(embedded[:, window.start : window.stop], masked)
            states = self.network.hidden(framed.flatten(0, 1), [Run(*framed.shape[:2])])
            pooled = pooled + self._share(states.unflatten(0, framed.shape[:2]), window, embedded.shape[1])
        return pooled

    def _windows(self, length: int) -> tuple[Window, ...]:
        if length == 0:
            raise DataError("an empty sequence has no residue to average", where=self.name)
        return windows(length, self.window, self.overlap)

    def _lookup(self, sequence: str) -> Tensor:
        return self.network.table()[self.tokenise(sequence)]

    def _framed(self, residues: Tensor, masked: int = 0) -> Tensor:
        """Add the special tokens to residue embeddings [..., L, D], and rescale as the model does."""
        table, alphabet = self.network.table(), self.network.alphabet
        ends = (table[list(ids)].expand(*residues.shape[:-2], -1, -1) for ids in (alphabet.before, alphabet.after))
        before, after = ends
        framed = torch.cat([before, residues, after], -2)
        return self.network.rescale(framed, masked, framed.shape[-2])

    def _owned(self, states: Tensor, window: Window) -> Tensor:
        """Of a window's hidden states [..., tokens, D], those of the residues it owns."""
        first = len(self.network.alphabet.before) - window.start
        return states[..., first + window.own_start : first + window.own_stop, :]

    def _share(self, states: Tensor, window: Window, length: int) -> Tensor:
        """What a window adds to the mean over all `length` residues."""
        return self._owned(states, window).mean(-2) * (window.owned / length)

    def _batches(self, sequences: Sequence[str]) -> list[list[Piece]]:
        pieces = [
            Piece(row, window) for row, sequence in enumerate(sequences) for window in self._windows(len(sequence))
        ]
        if self.order_free:
            return [[piece] for piece in pieces]
        # Longest first, so that a batch too large for the device fails at once; equal lengths are neighbours.
        pieces.sort(key=lambda piece: piece.window.start - piece.window.stop)
        special = len(self.network.alphabet.before + self.network.alphabet.after)
        batches: list[list[Piece]] = []
        room = 0
        for piece in pieces:
            tokens = piece.window.stop - piece.window.start + special
            if not batches or tokens > room:
                batches.append([])
                room = self.tokens_per_batch
            batches[-1].append(piece)
            room -= tokens
        return batches
