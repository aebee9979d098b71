"""Care of a codebook while it is trained: which codes are in use, running means of their latents, revival of dead codes.

All statistics are sums over the processes, so they do not depend on how a step is divided. Knows no images and no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dat.discretizers.quantizers.cosine import CosineQuantizer
from dat.discretizers.quantizers.nearest import Codebook, CodebookQuantizer, VectorQuantizer, as_vectors
from dat.errors import UsageError
from dat.types import Codes, Indices, Latents, Place, Vectors

CodebookUpdate = Literal["gradient", "ema"]
Counts = Float[Tensor, " codes"]
Mask = Bool[Tensor, " codes"]


class RunningMeans:
    """Exponential means, over steps, of how many latents take each code and of what these sum to; a codebook is their ratio.

    A code without a history starts with its fair share of a step, `latents / codes`, so that it moves as fast as a code
    that is used on average.
    Source: van den Oord et al. (2017), appendix A.1; Laplace smoothing: google-deepmind/sonnet:sonnet/src/nets/vqvae.py.
    """

    def __init__(self, codebook: Codebook, *, decay: float, epsilon: float = 1e-5) -> None:
        self.decay, self.epsilon = decay, epsilon
        self.counts: Counts = torch.zeros_like(codebook[:, 0])
        self.sums: Codebook = torch.zeros_like(codebook)

    def begin(self, codebook: Codebook, new: Mask, share: float) -> None:
        """Give the `new` codes a history: `share` latents per step, all of them where the code is."""
        self.counts[new] = share
        self.sums[new] = codebook[new] * self.counts[new, None]

    def follow(self, counts: Counts, sums: Codebook) -> None:
        """Take in one step: how many latents took each code, and their sums."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)

    def codebook(self) -> Codebook:
        """Mean latent of each code, its count smoothed so that unused codes do not divide by 0."""
        total = self.counts.sum()
        smoothed = (self.counts + self.epsilon) * total / (total + len(self.counts) * self.epsilon)
        return self.sums / smoothed[:, None]


class CodebookCare:
    """What is done to a codebook beside its gradient: data to start from, running means, revival.

    With `decay`, the codebook has no gradient and follows `RunningMeans` (of "cosine": of the latents at length 1). A code is
    dead if no latent took it since the last revival; it becomes a random latent, and statistics and moments of its old place
    are forgotten.

    Raises:
        UsageError: `decay` is no share below 1, or the codes of this quantizer are no means of latents.
    """

    def __init__(self, quantizer: CodebookQuantizer, place: Place, *, decay: float | None = None) -> None:
        self.quantizer, self.place = quantizer, place
        self.weight: Tensor = quantizer.embedding.weight
        self.used: Mask = torch.zeros(len(self.weight), dtype=torch.bool, device=self.weight.device)
        self.means: RunningMeans | None = None
        if decay is not None:
            _check_means(quantizer, decay)
            self.means = RunningMeans(self.weight.detach(), decay=decay)
            self.weight.requires_grad_(False)
        self._start_step()

    def _start_step(self) -> None:
        self.counts: Counts = torch.zeros_like(self.weight[:, 0], requires_grad=False)
        if self.means is not None:
            self.sums: Codebook = torch.zeros_like(self.means.sums)

    @torch.no_grad()
    def start_from(self, latents: Latents, generator: torch.Generator, *, trained: bool = False) -> None:
        """A codebook of encoder outputs, unless it is `trained`; another one lies in a corner that the encoder never visits."""
        everywhere = self._of_all_processes(latents)
        if not trained:
            self.quantizer.initialise(everywhere, generator)
        self._begin(torch.ones_like(self.used), share=len(as_vectors(everywhere)) / len(self.used))

    @torch.no_grad()
    def observe(self, latents: Latents, codes: Codes) -> None:
        """Note which codes a micro-batch of this process took, and with which latents."""
        taken = codes.flatten()
        self.counts += torch.bincount(taken, minlength=len(self.counts))
        if self.means is not None:
            self.sums += sums_by_code(self._compared(as_vectors(latents)), taken, len(self.sums))

    @torch.no_grad()
    def follow(self) -> None:
        """Close a step: what all processes observed counts as used, and a codebook of running means moves."""
        if self.place.processes > 1:
            torch.distributed.all_reduce(self.counts)
        self.used |= self.counts > 0
        if self.means is not None:
            if self.place.processes > 1:
                torch.distributed.all_reduce(self.sums)
            self.means.follow(self.counts, self.sums)
            self.weight.copy_(self.means.codebook())
        self._start_step()

    @torch.no_grad()
    def revive(self, latents: Latents, generator: torch.Generator, moments: Mapping[Tensor, Mapping[str, Any]]) -> int:
        """Set the codes unused since the last call to random latents; gives how many they were.

        `moments` is the optimizer's state. That of the revived rows becomes 0: it would pull them as it did their old place.
        """
        dead: Mask = ~self.used
        self.quantizer.revive(self._of_all_processes(latents), self.used.nonzero().view(1, 1, -1), generator)
        if self.means is not None:
            self._begin(dead, share=float(self.means.counts.mean()))
        forget(moments.get(self.weight, {}), dead)
        self.used.zero_()
        return int(dead.sum())

    def _begin(self, new: Mask, *, share: float) -> None:
        if self.means is not None:
            self.means.begin(self._compared(self.weight), new, share)

    def _compared(self, vectors: Vectors) -> Vectors:
        return F.normalize(vectors, dim=1) if isinstance(self.quantizer, CosineQuantizer) else vectors

    def _of_all_processes(self, latents: Latents) -> Latents:
        """The latents of a micro-batch in the order in which one process would have had them."""
        if self.place.processes == 1:
            return latents.float()
        parts = [torch.empty_like(latents.float()).contiguous() for _ in range(self.place.processes)]
        torch.distributed.all_gather(parts, latents.float().contiguous())
        return torch.cat(parts)

    def state(self) -> dict[str, Tensor]:
        """Use since the last revival, and the running means."""
        means = {} if self.means is None else {"counts": self.means.counts, "sums": self.means.sums}
        return {"used": self.used, **means}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def sums_by_code(vectors: Vectors, codes: Indices, count: int) -> Codebook:
    """Sum of the vectors of each of `count` codes.

    It is the gradient of looking the codes up, which torch sums in a fixed order; `index_add_` on a GPU does not.
    """
    with torch.enable_grad():
        table = vectors.new_zeros(count, vectors.shape[1], requires_grad=True)
        (sums,) = torch.autograd.grad(F.embedding(codes, table), table, vectors)
    return sums


def _check_means(quantizer: CodebookQuantizer, decay: float) -> None:
    if not 0 <= decay < 1:
        raise UsageError(f"ema_codebook_decay is {decay}; write a number from 0 up to, not including, 1 (0.99 is usual).")
    if not isinstance(quantizer, VectorQuantizer | CosineQuantizer):
        raise UsageError(
            "codebook_update is 'ema', but the codes of this quantizer are no means of latents; write gradient, or "
            "network.quantizer: vq or cosine."
        )


def forget(moments: Mapping[str, Any], rows: Mask) -> None:
    """Set the moments of some rows of a parameter to 0, in place; the count of steps, which all rows share, stays."""
    for value in moments.values():
        if isinstance(value, Tensor) and value.ndim and len(value) == len(rows):
            value[rows] = 0
