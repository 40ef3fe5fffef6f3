"""Weights that are tied to a size, taken to another: fully connected layers after flattening, position embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.functional import interpolate

from resflow.checks import is_whole
from resflow.errors import ConfigError
from resflow.extras import loaded_class

Embedded = TypeVar("Embedded", torch.Tensor, nn.Module)


def resize_linear(fc: nn.Linear, old: int | Sequence[int], new: int | Sequence[int]) -> nn.Linear:
    """Take a fully connected layer that follows a flattened map to maps of another size, to warm-start it there.

    Each row of weights is a picture [C, h, w]. It is interpolated over space along both axes (bicubic, antialiased
    where it shrinks, continuous pixel edges: align_corners=False), and each old weight's share is then scaled to add up
    to what it was, since a finer map has more pixels to sum over: on average by old area over new. So

    - the response to maps that are constant over space is kept exactly, at any two sizes;
    - the response to smooth maps is kept closely: of half a wave across the map within 0.1% from 25x25 to 50x50 and
      0.6% from 7x7 to 14x14 (root mean square over random weights); docs/models.md has a table;
    - smooth weights come back when taken there and back.

    Args:
        fc: in_features = C h w, flattened from [C, h, w] in that order, as `torch.flatten(x, 1)` does.
        old: height and width of the maps it was made for, in features (not pixels of the image); a number is both.
        new: height and width of the maps it is to take.

    Returns:
        A new layer with in_features C h' w' and the same bias, dtype, device and training mode; its parameters require
        gradients where the old ones did. With `new` equal to `old` the weights are the same bits.

    Raises:
        ConfigError: `fc` is no Linear, its in_features are no multiple of h w, or a size is no whole number above 0.

    Source: scaling as of a quadrature rule; the idea of resizing weights rather than images is FlexiViT's
        (https://arxiv.org/abs/2212.08013), whose pseudo-inverse keeps more of white noise and less of smooth images.
    """
    if not isinstance(fc, nn.Linear):
        raise ConfigError(f"resize_linear takes a torch.nn.Linear; got {type(fc).__name__}")
    (h, w), (high, wide) = _size("old", old), _size("new", new)
    channels, rest = divmod(fc.in_features, h * w)
    if rest:
        raise ConfigError(
            f"resize_linear: in_features {fc.in_features} is no multiple of old {h}x{w} = {h * w}. `old` is the size "
            "of the map that is flattened, in features, not the image's."
        )
    resized = nn.Linear(
        channels * high * wide, fc.out_features, bias=fc.bias is not None, device="meta", dtype=fc.weight.dtype
    )
    weight = fc.weight.detach()
    if (h, w) == (high, wide):
        weight = weight.clone()
    else:
        picture = weight.to(_working_dtype(weight)).view(-1, channels, h, w)  # [out, C, h, w]
        down, across = (_shares(a, b, picture) for a, b in ((h, high), (w, wide)))
        weight = torch.einsum("ochw,Hh,Ww->ocHW", picture, down, across).flatten(1).to(weight.dtype)
    resized.weight = nn.Parameter(weight, requires_grad=fc.weight.requires_grad)
    if fc.bias is not None:
        resized.bias = nn.Parameter(fc.bias.detach().clone(), requires_grad=fc.bias.requires_grad)
    return resized.train(fc.training)


def _shares(old: int, new: int, like: torch.Tensor) -> torch.Tensor:
    """[new, old]: the share of each old weight that each new one takes; columns sum to 1."""
    if old == new:
        return torch.eye(old, dtype=like.dtype, device=like.device)
    one = torch.eye(old, dtype=torch.float64)[None, None]  # rows are placed, columns interpolated
    placed = interpolate(one, size=(old, new), mode="bicubic", antialias=True, align_corners=False)[0, 0].T
    return (placed / placed.sum(dim=0)).to(like)


def resize_position_embedding(
    embedded: Embedded,
    old: int | Sequence[int] | None,
    new: int | Sequence[int],
    *,
    prefix: int = 1,
) -> Embedded:
    """Take a vision transformer's learned position embedding to another size.

    Bicubic, antialiased where it shrinks, continuous pixel edges (align_corners=False), in float32 at least; what
    stands before the patches, such as the class token's embedding, is kept. As timm's
    `resample_abs_pos_embed`; torchvision's `interpolate_embeddings` pins the corners instead (align_corners=True) and
    does not antialias.

    Args:
        embedded: a tensor [1, prefix + h w, D], or torchvision's VisionTransformer, which is changed in place: its
            embedding, `image_size` and `seq_length`, so that it takes the new size.
        old: of a tensor, height and width of the grid in patches; of a model, those of its images in pixels, or None
            for what it has. A number is both.
        new: the same, to be. A model's images must be square and a multiple of its patches; `adapt_classifier` makes a
            model take any.
        prefix: how many embeddings stand before the patches.

    Returns:
        A new tensor [1, prefix + h' w', D] of the same dtype and device, or the model. With `new` equal to `old` the
        values are the same bits.

    Raises:
        ConfigError: the sizes do not fit the tensor or the model.
    """
    if isinstance(embedded, torch.Tensor):
        if old is None:
            raise ConfigError("resize_position_embedding: old must be the grid's height and width in patches; got None")
        return _resized_tokens(embedded, _size("old", old), _size("new", new), prefix)
    _resize_transformer(embedded, old, _size("new", new))
    return embedded


def _resized_tokens(tokens: torch.Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int) -> torch.Tensor:
    if tokens.ndim != 3 or len(tokens) != 1 or tokens.shape[1] != prefix + old[0] * old[1]:
        raise ConfigError(
            f"resize_position_embedding: a grid of {old[0]}x{old[1]} patches after {prefix} others needs a tensor "
            f"[1, {prefix + old[0] * old[1]}, D]; got {list(tokens.shape)}"
        )
    if old == new:
        return tokens.clone()
    before, patches = tokens[:, :prefix], tokens[:, prefix:]
    grid = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    grid = interpolate(grid.to(_working_dtype(grid)), size=new, mode="bicubic", antialias=True, align_corners=False).to(
        tokens.dtype
    )
    return torch.cat([before, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _resize_transformer(model: nn.Module, old: int | Sequence[int] | None, new: tuple[int, int]) -> None:
    if not isinstance(model, loaded_class("torchvision.models", "VisionTransformer")):
        raise ConfigError(
            "resize_position_embedding takes a tensor [1, prefix + h*w, D] or torchvision's VisionTransformer; got "
            f"{type(model).__name__}. Pass the embedding itself, with its grid in patches."
        )
    vit: Any = model
    has, patch = int(vit.image_size), int(vit.patch_size)
    if old is not None and _size("old", old) != (has, has):
        raise ConfigError(f"resize_position_embedding: old is {old!r}, but the model takes images of {has}x{has}")
    if new[0] != new[1] or new[0] % patch:
        raise ConfigError(
            f"resize_position_embedding: torchvision's VisionTransformer takes squares of a multiple of its patch of "
            f"{patch} pixels; got {new[0]}x{new[1]}. adapt_classifier makes it take any."
        )
    before, after = has // patch, new[0] // patch
    given = vit.encoder.pos_embedding
    tokens = _resized_tokens(given.detach(), (before, before), (after, after), prefix=1)
    vit.encoder.pos_embedding = nn.Parameter(tokens, requires_grad=given.requires_grad)
    vit.image_size, vit.seq_length = new[0], 1 + after * after


def _working_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _size(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and is_whole(side) for side in pair):
        raise ConfigError(f"{name} must be a whole number above 0, or two of them (height, width); got {size!r}")
    return pair[0], pair[1]
