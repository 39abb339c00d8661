"""The directions of one tensor, and how inner products with its target are found."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fglight.autodiff import linalg
from fglight.autodiff.jvp import TANGENTS
from fglight.autodiff.layers.calls import LayerCall
from fglight.autodiff.passes import BlockPass

Point = nn.Parameter | LayerCall | None
"""Where the target of a block is taken: at a parameter, at the output of a use of a layer, or (None) at h_j."""

Targets = Mapping[Point, Tensor]
"""The target at some points of a block."""


@dataclass(frozen=True)
class Granularity:
    """How finely coefficients divide a space: a *unit* is what one of them stands for.

    Attributes:
        dimensions: along how many leading dimensions of a tensor (behind the samples) every index is a unit of its own.
        joins_tensors: whether all tensors of a block are one unit.
        joins_blocks: whether all blocks are.
    """

    dimensions: int = 0
    joins_tensors: bool = False
    joins_blocks: bool = False

    def split(self, tensors: Tensor) -> Tensor:
        """Split ``(k, samples, *shape)`` into ``(k, samples, units, features)``."""
        units = tensors.shape[2 : 2 + self.dimensions].numel()
        return tensors.reshape(*tensors.shape[:2], units, -1)


class Part:
    """The directions g_1 .. g_k of one tensor of a block, written out.

    Products with a target, Gram matrices and coefficients have one shape, ``(samples, units, k)``; in the space of
    weights the whole batch is one sample.

    Args:
        block_pass: the block.
        parameter: the tensor; None for the block's output h_j.
        directions: ``(k, samples, *shape)``.
        granularity: divides it into units.

    Attributes:
        point: where the target is wanted.
        on_graph: whether the estimate is pulled back through the block's graph.
        redrawn: whether nothing else holds the directions, so that a single one may become the estimate where it is.
    """

    point: Point
    on_graph = False
    redrawn = False

    def __init__(
        self, block_pass: BlockPass, parameter: nn.Parameter | None, directions: Tensor, granularity: Granularity
    ) -> None:
        self.block_pass = block_pass
        self.parameter = parameter
        self.point = parameter
        self.granularity = granularity
        self.directions = granularity.split(directions).permute(1, 2, 0, 3)  # (samples, units, k, features)

    @property
    def count(self) -> tuple[int, int]:
        """The numbers of units and of directions k."""
        return self.directions.shape[1], self.directions.shape[2]

    @property
    def features(self) -> int:
        """The dimension of a unit."""
        return self.directions.shape[3]

    def gram(self) -> Tensor:
        """⟨g_l, g_m⟩, ``(samples, units, k, k)``."""
        return linalg.gram(self.directions)

    def products(self, targets: Targets) -> Tensor:
        """⟨t, g_m⟩, ``(samples, units, k)``."""
        target = targets[self.parameter].unsqueeze(0)
        whole = target if self.parameter is None else target.unsqueeze(0)
        return linalg.products(self.granularity.split(whole)[0], self.directions)

    def squares(self, targets: Targets) -> Tensor:
        """|t|², ``(samples, units)``."""
        samples, units, *_ = self.directions.shape
        return linalg.gram(targets[self.parameter].reshape(samples, units, 1, -1))[..., 0, 0]

    def move(self, m: int) -> Tensor:
        """Direction m of a parameter that is one unit, in its shape."""
        assert self.parameter is not None
        return self.directions[0, 0, m].view(self.parameter.shape)

    def tangents(self) -> Iterator[Tensor]:
        """Tangents of h_j, ``(count, batch, ...)``, one for each unit and direction; all but one unit stay in each."""
        raise NotImplementedError

    def pull_back(self, c: Tensor) -> dict[nn.Parameter, Tensor]:
        """The estimate, the sum of c_m g_m, in the space of the block's parameters."""
        raise NotImplementedError

    def combined(self, c: Tensor) -> Tensor:
        """The sum of c_m g_m, ``(samples, units, features)``, of ``(samples, units, k)``; directions are let go of."""
        directions = self.__dict__.pop("directions")
        if self.redrawn and directions.shape[2] == 1 and directions.dtype == c.dtype:
            return directions.squeeze(2).mul_(c)
        return linalg.combine(c, directions)


class ActivityPart(Part):
    """The directions of h_j, one or several for each sample."""

    on_graph = True

    def pull_back(self, c: Tensor) -> dict[nn.Parameter, Tensor]:
        """See ``Part``: by a vector-Jacobian product (Eq. 5); the block's graph is freed."""
        estimate = self.combined(c).view(self.block_pass.output.shape).to(self.block_pass.output.dtype)
        parameters = self.block_pass.parameters
        return dict(zip(parameters, self.block_pass.vjp(estimate, parameters, keep=False)))

    def tangents(self) -> Iterator[Tensor]:
        """See ``Part``."""
        g = self.directions.movedim(0, 2)  # (units, k, batch, features)
        units = torch.eye(len(g), dtype=g.dtype, device=g.device)
        for unit, directions in zip(units, g):
            moved = unit.view(-1, 1) * directions.unsqueeze(2)  # (k, batch, units, features)
            yield from moved.reshape(-1, *self.block_pass.output.shape).split(TANGENTS)


class SpanPart(ActivityPart):
    """The directions of the whole batch, on whose span every sample's target is projected.

    Args:
        own: those of this process's samples.

    Attributes:
        own_products: inner products with ``own``, once ``products`` was called.
    """

    def __init__(self, own: ActivityPart) -> None:
        self.block_pass, self.parameter, self.point, self.own = own.block_pass, None, None, own
        rows = own.directions.flatten(0, 2)  # (batch * k, features)
        self.basis = linalg.unit_rows(own.block_pass.network.batch.gather(rows))  # (whole batch * k, features)

    @property
    def count(self) -> tuple[int, int]:
        """See ``Part``."""
        return 1, len(self.basis)

    @property
    def features(self) -> int:
        """See ``Part``."""
        return self.basis.shape[1]

    def gram(self) -> Tensor:
        """See ``Part``; that of the basis, ``(1, 1, whole batch * k, whole batch * k)``."""
        return linalg.matmul(self.basis, self.basis.mT)[None, None]

    def products(self, targets: Targets) -> Tensor:
        """See ``Part``: with the basis, ``(batch, 1, whole batch * k)``."""
        self.own_products = self.own.products(targets)
        return linalg.matmul(targets[None].unsqueeze(-1).flatten(1), self.basis.mT).unsqueeze(1)

    def squares(self, targets: Targets) -> Tensor:
        """See ``Part``."""
        return self.own.squares(targets)

    def combined(self, c: Tensor) -> Tensor:
        """See ``Part``."""
        self.__dict__.pop("own")
        return linalg.matmul(c.squeeze(1), self.__dict__.pop("basis"))

    def tangents(self) -> Iterator[Tensor]:
        """See ``ActivityPart``: all samples move along the same direction, each of the basis in turn."""
        output = self.block_pass.output
        yield self.basis.to(output.dtype).view(-1, 1, *output.shape[1:]).expand(-1, *output.shape)


class WeightPart(Part):
    """The directions of a parameter, the same for the whole batch."""

    parameter: nn.Parameter

    @property
    def name(self) -> str:
        """The parameter's name in the body."""
        return next(n for n, p in zip(self.block_pass.names, self.block_pass.parameters) if p is self.parameter)

    def pull_back(self, c: Tensor) -> dict[nn.Parameter, Tensor]:
        """See ``Part`` (Eq. 4)."""
        return {self.parameter: self.combined(c).view(self.parameter.shape).to(self.parameter.dtype)}

    def tangents(self) -> Iterator[Tensor]:
        """See ``Part``."""
        _, units, k, features = self.directions.shape
        rows = self.directions.reshape(units * k, features)
        for index in torch.arange(len(rows), device=rows.device).split(TANGENTS):
            moved = rows.new_zeros(len(index), units, features)
            moved[torch.arange(len(index), device=rows.device), index // k] = rows[index]
            yield self.block_pass.jvp({self.name: moved.view(-1, *self.parameter.shape)})
