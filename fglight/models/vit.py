"""A vision transformer, an encoder layer a block."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from fglight.models.auxiliaries import PooledAuxiliary
from fglight.models.blocks import Block, BlockNetwork
from fglight.models.initialization import reset_parameters
from fglight.models.sizes import check_positive_ints


class PatchEmbedding(nn.Module):
    """Images as tokens: a linear map of each patch, plus a learned vector of its place (Dosovitskiy et al. 2021).

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images.
        patch_size: side of a patch.
        hidden_dim: channels of a token.
    """

    def __init__(self, in_channels: int, image_size: int, patch_size: int, hidden_dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, hidden_dim, patch_size, patch_size)
        self.place = nn.Parameter(torch.empty((image_size // patch_size) ** 2, hidden_dim).normal_(std=0.02))

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, tokens, hidden_dim)``, row by row."""
        return self.projection(images).flatten(2).mT + self.place


class BlockwiseViT(BlockNetwork):
    """A vision transformer as a sequence of blocks, each an encoder layer; the embedding belongs to the first.

    There is no class token. The classifier is a norm, the mean over all tokens and a linear layer (Beyer et al. 2022,
    arXiv 2205.01580), so that auxiliary networks, which see tokens as maps, see all that goes on.

    Args:
        auxiliary: builds the auxiliary network of a block from the channels of its tokens.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: height and width of the images.
        patch_size: side of a patch, a divisor of ``image_size``.
        num_layers: number of encoder layers, and so of blocks.
        num_heads: of each attention.
        hidden_dim: channels of a token, a multiple of ``num_heads``.
        mlp_dim: hidden units of a layer's MLP.

    Raises:
        ValueError: a size is no whole number from 1 on, or sizes do not go together.
    """

    def __init__(
        self,
        auxiliary: Callable[[int], nn.Module],
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
    ) -> None:
        check_positive_ints(
            "model",
            patch_size=patch_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            mlp_dim=mlp_dim,
        )
        if image_size % patch_size:
            raise ValueError(f"model.patch_size must be a divisor of data.image_size={image_size}, got {patch_size}")
        if hidden_dim % num_heads:
            raise ValueError(f"model.hidden_dim must be a multiple of model.num_heads={num_heads}, got {hidden_dim}")
        norm = partial(nn.LayerNorm, eps=1e-6)
        layer = partial(EncoderBlock, num_heads, hidden_dim, mlp_dim, dropout=0.0, attention_dropout=0.0)
        bodies = [nn.Sequential(layer(norm_layer=norm)) for _ in range(num_layers)]
        bodies[0].insert(0, PatchEmbedding(in_channels, image_size, patch_size, hidden_dim))
        head = nn.Sequential(norm(hidden_dim), PooledAuxiliary(torch.empty(1, 1, hidden_dim), num_classes))
        auxiliaries = nn.ModuleList(auxiliary(hidden_dim) for _ in bodies[1:])
        reset_parameters(auxiliaries)
        super().__init__(map(Block, bodies, [*auxiliaries, head]))
