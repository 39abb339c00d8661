"""A network cut into blocks, each with its own small network on top that turns the block's output into a loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from fglight.errors import BlockError, LabelError
from fglight.models.auxiliaries import PooledAuxiliary
from fglight.models.losses import CrossEntropyLoss, Loss
from fglight.models.segments import Inputs, Segment, even_cuts, segments
from fglight.models.several import SeveralAuxiliaries
from fglight.models.tied import tied_places, untie

_CROSS_ENTROPY = CrossEntropyLoss()

Evaluate = Callable[[object, Callable[[Tensor, Tensor], Any], Tensor, Tensor], Any]
"""Calls a loss with outputs and labels, in its own way.

Before them it is given the loss twice; or the auxiliary network and its method ``loss``, which takes h_j in place of
outputs and gives these with the loss.
"""


def _call(owner: object, loss: Callable[[Tensor, Tensor], Any], outputs: Tensor, labels: Tensor) -> Any:
    return loss(outputs, labels)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` that take a gradient, in the order of ``module.parameters()``."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Block(nn.Module):
    """Block j of a network: its layers f_j and the network that reads their output h_j.

    Buffers of the block itself, rather than of its parts, are what a guess keeps from step to step. They come with
    ``Guess.set_up``, with the first step, or with a state that is loaded.

    Args:
        body: the layers f_j, any module of one tensor.
        aux: the auxiliary network a_j, or the head for the last block. It maps h_j to outputs as the loss takes them:
            logits ``(batch, classes)``, or values in the labels' shape. An auxiliary with a method
            ``loss(h, labels) -> (loss, outputs)`` defines its own local loss; on several processes it needs a method
            ``divisor(labels)``, see ``fglight.models.losses``. There may be ``SeveralAuxiliaries``.
        loss: of outputs and labels, a mean over the batch: any function, or a module without parameters, whose buffers
            move with the block. None: the network's.

    Raises:
        ValueError: for a loss with parameters.
    """

    def __init__(self, body: nn.Module, aux: nn.Module, loss: Loss | None = None) -> None:
        super().__init__()
        self.body = body
        self.aux = aux
        self.criterion: Loss | None = None
        if loss is not None:
            self.use_loss(loss)

    def use_loss(self, loss: Loss) -> None:
        """Have a loss of its own; see above."""
        if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            raise ValueError(
                f"a loss must have no parameters, which nothing would train, got {type(loss).__name__}: an auxiliary "
                "network with a method loss may have some"
            )
        del self.criterion  # where a module was, torch takes no function
        self.criterion = loss

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Have the buffers that a loaded state has; see ``nn.Module``."""
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and "." not in name and not hasattr(self, name):
                self.register_buffer(name, torch.empty_like(value, device=next(self.parameters(), value).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def loss(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of this block's auxiliary network (or head) on the block's output.

        Args:
            output: h_j, ``(batch, ...)``.
            labels: as the loss takes them: class indices ``(batch,)``, or values ``(batch, outputs)``.

        Returns:
            The scalar loss L_j, a mean over the batch, and the outputs of the auxiliary network, ``(batch, ...)``.

        Raises:
            LabelError: the loss gives no mean over the batch, or is none of outputs and labels like these.
        """
        return self.loss_of([output] * len(self.auxiliaries), labels)

    @property
    def auxiliaries(self) -> list[nn.Module]:
        """The auxiliary networks, one or several."""
        return list(self.aux) if isinstance(self.aux, SeveralAuxiliaries) else [self.aux]

    def loss_of(
        self, outputs: Sequence[Tensor], labels: Tensor, evaluate: Evaluate | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``loss``, with a tensor of its own for each of ``auxiliaries``, so that their gradients can be told apart.

        Args:
            outputs: h_j as often as there are auxiliary networks.
            labels: as for ``loss``.
            evaluate: see ``Evaluate``; None: calls the loss.

        Returns:
            As ``loss``.
        """
        pairs = zip(self.auxiliaries, outputs)
        losses, logits = zip(*(self._loss(aux, output, labels, evaluate or _call) for aux, output in pairs))
        if len(losses) == 1:
            return losses[0], logits[0]
        return torch.stack(losses).sum(), torch.stack(logits).mean(0)

    def _loss(self, aux: nn.Module, output: Tensor, labels: Tensor, evaluate: Evaluate) -> tuple[Tensor, Tensor]:
        """What ``loss`` gives, of one auxiliary network."""
        own: Any = getattr(aux, "loss", None)
        if own is not None:
            return evaluate(aux, own, output, labels)
        logits = aux(output)
        if not isinstance(logits, Tensor):
            raise BlockError(
                f"the auxiliary network of a block, and the head, must give one tensor, and a {type(aux).__name__} "
                f"gives a {type(logits).__name__}: wrap it in a module that hands on the tensor that the loss takes"
            )
        criterion = self.criterion or _CROSS_ENTROPY
        loss = evaluate(criterion, criterion, logits, labels)
        if loss.dim() > 0:
            raise LabelError(f"the loss must be one number, the mean over the batch, got {tuple(loss.shape)} numbers")
        if logits.requires_grad and not loss.requires_grad:
            name = getattr(criterion, "__name__", type(criterion).__name__)
            raise LabelError(
                f"the loss must have a gradient here, and {name} has none: use engine=finite with exact_blocks=0, "
                "target=global, a guess that is drawn, measure=false and verify=false"
            )
        return loss, logits


class BlockNetwork(nn.Module):
    """A sequence of blocks; the last one's ``aux`` is the classifier head, or gives other outputs.

    A parameter of layers in several blocks, as of a language model's tied embeddings, becomes one of its own for each,
    at the same memory. Each block has an estimate of it, and ``GradientEstimator.estimate`` leaves their sum in the
    first.

    Args:
        blocks: the blocks, from the images to the outputs.
        loss: of those blocks that have none of their own, see ``Block``; None: cross-entropy.
    """

    def __init__(self, blocks: Iterable[Block], loss: Loss | None = None) -> None:
        super().__init__()
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        untie(self.blocks)
        self._tied = tied_places(self)
        self.held: tuple[nn.Module, ...] = ()  # no submodule, for the blocks have its parameters
        if loss is not None:
            self.use_loss(loss)

    @property
    def module(self) -> nn.Module | None:
        """The module that was cut into the blocks, with the same parameters; None where they are of no single one."""
        return self.held[0] if self.held else None

    def use_loss(self, loss: Loss) -> None:
        """Give a loss to the blocks that have none."""
        for block in self.blocks:
            if block.criterion is None:
                block.use_loss(loss)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy is tied as this is."""
        super().__setstate__(state)
        self._tie()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BlockNetwork":
        super()._apply(fn, recurse)
        self._tie()
        return self

    def _tie(self) -> None:
        for (first, name), (other, its_name) in self._tied:
            getattr(other, its_name).data = getattr(first, name).data

    def forward(self, images: Tensor) -> Tensor:
        """Outputs of the head, for a classifier logits ``(batch, classes)``; auxiliary networks take no part."""
        hidden = images
        for block in self.blocks:
            hidden = block.body(hidden)
        return self.blocks[-1].aux(hidden)


def split(
    layers: nn.Module | Iterable[nn.Module],
    blocks: int | Sequence[int] | Sequence[str],
    example: Tensor,
    auxiliary: Callable[[Tensor, int], nn.Module] = PooledAuxiliary,
    loss: Loss | None = None,
    inputs: Inputs | None = None,
) -> BlockNetwork:
    """Cut a network into blocks, and put an auxiliary network on each.

    A chain of layers, such as an ``nn.Sequential``, is cut between them. Any other module is cut where some of its
    submodules begin (``fglight.models.segments``), whatever its code does with masks, positions or tuples, as long as
    one tensor crosses each cut. It may give a tensor, or a structure with ``logits`` or with a tensor first.

    All stay the same objects with the same parameters: to train the blocks is to train the network they are from. They
    are run on ``example``, as copies, so that no running statistics move.

    Args:
        layers: from the images to the outputs, each a module of one tensor; the last is the head. Or any module.
        blocks: how many blocks, of about equal numbers of layers (the head does not count); or where blocks 1, 2, ...
            begin: positions of layers, or names of submodules, as in ``["layer2", "layer3"]``.
        example: a batch of images, ``(batch, channels, height, width)`` or whatever block 0 takes, token indices for
            instance.
        auxiliary: makes the auxiliary network of a block j < J-1 from an example of its output h_j, ``(batch, ...)``,
            and the number of classes or other outputs.
        loss: of outputs and labels, see ``BlockNetwork``; outputs ``(batch, tokens, outputs)`` need one.
        inputs: makes the module's keyword arguments of what block 0 takes, as of token indices and masks that are
            stacked; None: it is the only argument.

    Returns:
        The blocks; auxiliary networks have the dtype and device of what they take in.

    Raises:
        ValueError: for cuts that leave a block empty or that more than one tensor crosses, outputs that are not
            ``(batch, outputs)`` or ``(batch, tokens, outputs)``, a layer that changes a block's input in place, or one
            that two blocks share.
    """
    named = not isinstance(blocks, int) and any(isinstance(block, str) for block in blocks)
    if isinstance(layers, nn.Module) and (named or inputs is not None or not isinstance(layers, Iterable)):
        bodies: Sequence[nn.Module] = _segments(layers, blocks, example, inputs)
        head: nn.Module = nn.Identity()
    else:
        bodies, head = _chained([*cast(Iterable[nn.Module], layers)], blocks)
    network = _blocks(bodies, head, example, auxiliary, loss)
    network.held = (layers,) if isinstance(layers, nn.Module) else ()
    return network


def _chained(layers: Sequence[nn.Module], blocks: int | Sequence[Any]) -> tuple[list[nn.Sequential], nn.Module]:
    """The bodies of a chain of layers, and its head."""
    *layers, head = layers
    starts = [j * len(layers) // blocks for j in range(blocks)] if isinstance(blocks, int) else [0, *blocks]
    ends = [*starts[1:], len(layers)]
    if not starts or any(start >= end for start, end in zip(starts, ends)):
        raise ValueError(f"blocks={blocks} of {len(layers)} layers and a head: every block needs at least one layer")
    return [nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends)], head


def _segments(
    module: nn.Module, blocks: int | Sequence[int] | Sequence[str], example: Tensor, inputs: Inputs | None
) -> list[Segment]:
    """The bodies of a module that is no chain."""
    if isinstance(blocks, int):
        starts = even_cuts(module, blocks, example, inputs)
    elif all(isinstance(block, str) for block in blocks):
        starts = [str(block) for block in blocks]
    else:
        raise ValueError(f"blocks must be a number, or names of submodules of {type(module).__name__}, got {blocks}")
    return segments(module, starts, example, inputs)


def _blocks(
    bodies: Sequence[nn.Module],
    head: nn.Module,
    example: Tensor,
    auxiliary: Callable[[Tensor, int], nn.Module],
    loss: Loss | None,
) -> BlockNetwork:
    """The network of some bodies, with auxiliary networks; see ``split``."""
    copies, outputs = deepcopy(nn.ModuleList([*bodies, head])).eval(), [example.clone()]
    with torch.no_grad():
        for index, body in enumerate(copies[:-1]):
            version = outputs[-1]._version
            outputs.append(body(outputs[-1]))
            if outputs[-2]._version != version:
                raise ValueError(f"block {index} changes its input in place: cut elsewhere, or copy it")
        logits = copies[-1](outputs[-1])
    if logits.dim() not in (2, 3) or len(logits) != len(example):
        raise ValueError(
            f"the last layer is no head: it gives {tuple(logits.shape)}, and not (batch, outputs) or (batch, tokens, "
            "outputs)"
        )
    auxiliaries = [auxiliary(output, logits.shape[-1]).to(output) for output in outputs[1:-1]]
    network = BlockNetwork((Block(body, aux) for body, aux in zip(bodies, [*auxiliaries, head])), loss)
    if sum(len(list(block.parameters())) for block in network.blocks) > len(list(network.parameters())):
        raise ValueError("two blocks share a layer: cut so that all uses of a layer are in one block")
    return network
