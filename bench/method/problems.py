"""Small training problems whose minimum can be reached, so that leaving a pair out has one true outcome.

    L(theta) = mean over segmentations of [ sum over batches L_batch ] + (delta/2) |theta - theta_0|^2

Batches are frozen: a removed pair leaves its batch, and nothing takes its place. theta is one flat vector; all pairs
pass through the towers at once, and the batches are formed from the rows. Kinds of problem: similarities bilinear
in theta (convex), the two heads of a trained model on its frozen trunk, the last blocks or all parameters of a small
one.

Shape suffixes: N pairs, P parameters, C batches, B pairs of a batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.method.corpora import Draw, Material, Pictures
from ecif import contrastive
from ecif.towers import SCALE, State, Towers
from ecif.towers.loading import LoadedModel, load

DEEP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 12, "patch_size": 16, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 18, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2, "mlp_ratio": 2.0},
}
CHECKED = ("a photo of a cat", "two dogs")  # what `Towers` tries a model with
FAR = -1e30  # a logit that no softmax sees; finite, so that its gradient is zero and not NaN


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs behind the frozen part of the towers."""

    image: State
    text: State

    def __len__(self) -> int:
        return len(self.image[0])

    def take(self, rows: Tensor) -> Pairs:
        """The pairs at `rows`."""
        return Pairs(tuple(part[rows] for part in self.image), tuple(part[rows] for part in self.text))


Embed = Callable[[Tensor, Pairs], tuple[Tensor, Tensor, Tensor | float]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One training problem.

    Attributes:
        embed: theta_P, pairs -> u_ND, v_ND, scale s. shapes: of the parameters that theta holds, end to end.
        theta_0: (P,). delta: weight of the pull towards theta_0.
        batches: (C, B) rows of `train`; with several segmentations each row stands in as many batches.
        validation_batches: (C, B) rows of `validation`.
        wrong: (N,), which training pairs are wrong. test: right pairs that nothing is chosen by.
        test_texts: their different captions, as states. test_labels: which of these is each pair's own.
    """

    name: str
    embed: Embed
    shapes: Mapping[str, tuple[int, ...]]
    theta_0: Tensor
    delta: float
    train: Pairs
    validation: Pairs
    batches: Tensor
    validation_batches: Tensor
    segmentations: int
    wrong: Tensor
    test: Pairs | None = None
    test_labels: Tensor | None = None

    @property
    def n(self) -> int:
        """N."""
        return len(self.train)

    def logits(self, theta: Tensor, pairs: Pairs, batches: Tensor) -> Tensor:
        """s_CBB of the batches."""
        u_ND, v_ND, scale = self.embed(theta, pairs)
        return scale * (u_ND[batches] @ v_ND[batches].transpose(1, 2))

    def loss(self, theta: Tensor, keep_N: Tensor | None = None) -> Tensor:
        """L(theta), of the pairs at which `keep_N` is true."""
        s_CBB = self.logits(theta, self.train, self.batches)
        keep_CB = torch.ones_like(self.batches, dtype=torch.bool) if keep_N is None else keep_N[self.batches]
        pull = self.delta / 2 * (theta - self.theta_0).square().sum()
        return positive_of_kept(s_CBB, keep_CB).sum() / self.segmentations + pull

    def validation_losses(self, theta: Tensor) -> Tensor:
        """Pos_i / 2 of every validation pair in its batch, in the order of the batches; L_val is their mean."""
        s_CBB = self.logits(theta, self.validation, self.validation_batches)
        return positive_of_kept(s_CBB, torch.ones_like(self.validation_batches, dtype=torch.bool)).flatten() / 2

    def accuracy(self, theta: Tensor) -> float:
        """Fraction of the test images whose own caption is the most similar of all different test captions."""
        if self.test is None or self.test_labels is None:
            raise ValueError(f"{self.name} has no test pairs")
        with torch.no_grad():
            u_ND, v_ND, _ = self.embed(theta, self.test)
            firsts = torch.stack([(self.test_labels == label).nonzero()[0, 0] for label in self.test_labels.unique()])
            nearest = (u_ND @ v_ND[firsts].T).argmax(1)
        return float((nearest == self.test_labels).double().mean())


def positive_of_kept(s_CBB: Tensor, keep_CB: Tensor) -> Tensor:
    """Pos_n, (C, B), in batches reduced to the kept pairs; 0 for the others."""
    gone_CB = ~keep_CB
    rows_CB = s_CBB.masked_fill(gone_CB.unsqueeze(1), FAR).logsumexp(2)
    columns_CB = s_CBB.masked_fill(gone_CB.unsqueeze(2), FAR).logsumexp(1)
    return (rows_CB + columns_CB - 2 * s_CBB.diagonal(dim1=1, dim2=2)) * keep_CB


def cut(n: int, batch: int, seed: int, segmentations: int = 1) -> Tensor:
    """Random batches of equal size, (segmentations n / B, B).

    Raises:
        ValueError: n is no multiple of the batch.
    """
    if n % batch:
        raise ValueError(f"{n} pairs cannot be cut into batches of {batch}")
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n, generator=generator).reshape(-1, batch) for _ in range(segmentations)])


def convex(seed: int, n: int = 96, batch: int = 32, delta: float = 20.0, noise: float = 0.5, width: int = 4) -> Problem:
    """S = h_image W h_text^T of noisy views of common latent vectors; every eighth pair has another's text.

    The loss is convex and its GGN matrix is its Hessian: what is left of an error is the influence approximation.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mix_image, mix_text = normal(4, width), normal(4, width)

    def views(count: int) -> tuple[Tensor, Tensor]:
        latent = normal(count, 4)
        return latent @ mix_image + noise * normal(count, width), latent @ mix_text + noise * normal(count, width)

    image, text = views(n)
    wrong = torch.arange(n) % 8 == 0
    text[wrong] = text[wrong].roll(1, 0)
    validation = Pairs(*(((part,)) for part in views(64)))
    return Problem(
        name="convex",
        embed=lambda theta, pairs: (pairs.image[0] @ theta.reshape(width, width), pairs.text[0], 1.0),
        shapes={"W": (width, width)},
        # The pretrained point knows something already, as a pretrained model does.
        theta_0=(0.3 * torch.linalg.pinv(mix_image) @ torch.linalg.pinv(mix_text).T).flatten(),
        delta=delta,
        train=Pairs((image,), (text,)),
        validation=validation,
        batches=torch.arange(n).reshape(-1, batch),
        validation_batches=torch.arange(64).reshape(-1, 32),
        segmentations=1,
        wrong=wrong,
    )


def heads(
    source: Material,
    drawn: Draw,
    seed: int,
    batch: int = 64,
    delta: float = 1.0,
    blur: float = 0.5,
    temperature: float = 1.0,
    segmentations: int = 1,
) -> Problem:
    """The two last projections of the source's model, on its frozen trunk.

    Args:
        blur: noise added to the pretrained heads, in units of their entries' size: without it, the model, which was
            trained on these very pairs, would have little to learn from them.
        temperature: factor on the model's own.
    """
    loaded = load(str(source.config), str(source.weights), torch.float64)
    towers = Towers(loaded, "heads", torch.device("cpu"))
    towers.scale /= temperature
    start = torch.cat([p.flatten() for p in towers.parameters.values()])
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed), dtype=start.dtype)
    sizes = torch.cat([p.square().mean().sqrt().expand(p.numel()) for p in towers.parameters.values()])
    return _behind(
        towers, f"heads, {source.name}", drawn, start + blur * sizes * noise, seed, batch, delta, segmentations
    )


def deep(
    source: Material,
    drawn: Draw,
    seed: int,
    trainable: str = "all",
    batch: int = 32,
    delta: float = 300.0,
    pretrained: bool = True,
) -> Problem:
    """A ViT and a text transformer of two narrow blocks each.

    Args:
        trainable: last:1 or all. pretrained: theta_0 is not random, but has seen the source's corpus for a while.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = open_clip.CLIP(**DEEP)
    tokenise = open_clip.SimpleTokenizer(context_length=DEEP["text_cfg"]["context_length"])
    captions = [*source.corpus.captions, *source.clean.captions, *CHECKED]
    known, numbers = torch.unique(tokenise(captions), return_inverse=True)
    # Only the words that occur: a table of fifty thousand rows would be most of the parameters. The end token keeps
    # the largest number, which is what pooling looks for.
    network.token_embedding = nn.Embedding(len(known), DEEP["text_cfg"]["width"])
    # Rows of the size that open_clip draws (0.02) make the loss behind the first layer norm so sharp that no training
    # ends in a minimum.
    nn.init.normal_(network.token_embedding.weight, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        network.positional_embedding *= 50
        network.visual.positional_embedding *= 5
        network.visual.class_embedding *= 5
    if pretrained:
        _pretrain(network, source, numbers, seed)

    def tokens(texts: list[str]) -> Tensor:
        return torch.searchsorted(known, tokenise(texts))

    loaded = LoadedModel(network.double().eval().requires_grad_(False), lambda image: image, tokens, "deep")
    towers = Towers(loaded, trainable, torch.device("cpu"))
    start = torch.cat([p.flatten() for p in towers.parameters.values()])
    return _behind(towers, f"deep {trainable}, {source.name}", drawn, start, seed, batch, delta, 1)


def _pretrain(network: Any, source: Material, tokens: Tensor, seed: int, steps: int = 150, batch: int = 64) -> None:
    """AdamW on the source's corpus, in single precision: a start that knows something of the training pairs' kind."""
    generator = torch.Generator().manual_seed(seed)
    images = _resize(source.corpus.images)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(images), (batch,), generator=generator)
            u_BD = F.normalize(network.encode_image(images[rows]), dim=-1)
            v_BD = F.normalize(network.encode_text(tokens[rows]), dim=-1)
            loss = contrastive.batch_loss(contrastive.logits(u_BD, v_BD, network.logit_scale.exp())) / (2 * batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def _resize(images: Tensor) -> Tensor:
    side = DEEP["vision_cfg"]["image_size"]
    return images if images.shape[-1] == side else F.interpolate(images, (side, side), mode="area")


def _behind(
    towers: Towers, name: str, drawn: Draw, theta_0: Tensor, seed: int, batch: int, delta: float, segmentations: int
) -> Problem:
    shapes = {name: tuple(p.shape) for name, p in towers.parameters.items()}

    def embed(theta: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor | float]:
        values = unflatten(theta, shapes)
        u_ND, v_ND = towers.embed(values, pairs.image, pairs.text)
        return u_ND, v_ND, values[SCALE].exp() if SCALE in values else towers.scale

    def behind(pictures: Pictures) -> Pairs:
        images = _resize(pictures.images) if towers.loaded.fingerprint == "deep" else pictures.images
        return Pairs(towers.image_stem(images), towers.text_stem(list(pictures.captions)))

    texts = sorted(set(drawn.test.captions))
    return Problem(
        name=name,
        embed=embed,
        shapes=shapes,
        theta_0=theta_0,
        delta=delta,
        train=behind(drawn.train),
        validation=behind(drawn.validation),
        batches=cut(len(drawn.train.captions), batch, seed, segmentations),
        validation_batches=cut(len(drawn.validation.captions), batch, seed),
        segmentations=segmentations,
        wrong=drawn.train.wrong,
        test=behind(drawn.test),
        test_labels=torch.tensor([texts.index(caption) for caption in drawn.test.captions]),
    )


def unflatten(theta: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """theta_P -> parameters by name."""
    pieces = theta.split([torch.Size(shape).numel() for shape in shapes.values()])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
