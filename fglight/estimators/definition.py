"""The definition of an estimate in plain autograd, which ``GradientEstimator.verify`` holds steps against.

The whole network runs once, in one graph. No formula of a layer is used and no graph is cut: all that is done is to
take gradients, of one sample after the other where a coefficient is of a sample.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from fglight.autodiff.batch import Batch
from fglight.autodiff.buffers import Buffers
from fglight.autodiff.coupling import coupled_by
from fglight.autodiff.graph import Graph
from fglight.autodiff.layers.calls import LayerCall, record_calls
from fglight.autodiff.local_loss import GRADIENT_ALONE, Auxiliaries
from fglight.autodiff.parameters import dense
from fglight.autodiff.passes import BlockPass, NetworkPass
from fglight.autodiff.rng import Generators, generators_at
from fglight.errors import BlockError
from fglight.estimators.coefficients import Units
from fglight.estimators.guesses.base import Guess
from fglight.estimators.spaces.base import Perturbation
from fglight.estimators.targets import Target
from fglight.models.blocks import Block, trainable

Recording = Callable[[nn.Module], AbstractContextManager[list[LayerCall]]]
"""Gives a context in which a body runs once, whose value is the uses of its layers."""

Place = tuple[int, int]
"""A tensor of a space: its block, and its number there."""


class WholeNetwork:
    """A network in one graph. Block j maps x_j to h_j = f_j(x_j, θ_j); L_j is its local loss, L_{J-1} the network's.

    Args:
        blocks: which run once.
        images: what block 0 takes.
        labels: what the losses take.
        auxiliaries: whether local losses are evaluated; else they are not a number.
        recording: see ``NetworkPass``.

    Attributes:
        buffers: as they were before any block ran.
        states: of the generators before each block ran.
        inputs: x_j of every block.
        outputs: h_j of every block.
        losses: L_j of every block.
        calls: the uses of every block's layers.
        logits: outputs of the head.
        parameters: the trained parameters θ_j of every block.

    Raises:
        BlockError: a local loss draws random numbers, so that they depend on when it is evaluated.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        images: Tensor,
        labels: Tensor,
        *,
        auxiliaries: bool = True,
        recording: Recording = lambda body: nullcontext([]),
    ) -> None:
        self.logits: Tensor
        self.blocks, self.labels, self.buffers = blocks, labels, Buffers(blocks)
        self.states: list[Generators] = []
        self.inputs, self.outputs, self.losses = [images], list[Tensor](), list[Tensor]()
        self.calls: list[list[LayerCall]] = []
        self.parameters = [trainable(block.body) for block in blocks]
        for index, block in enumerate(blocks):
            self.states.append(Generators(images.device))
            with recording(block.body) as calls:
                hidden = block.body(self.inputs[-1])
            self.calls.append(calls)
            if not hidden.requires_grad:  # nothing below is trained
                hidden = hidden.detach().requires_grad_()
            self.inputs.append(hidden)
            self.outputs.append(hidden)
            before, last = Generators(images.device), block is blocks[-1]
            nothing = hidden.new_tensor(torch.nan)
            loss, self.logits = block.loss(hidden.clone(), labels) if auxiliaries or last else (nothing, nothing)
            self.losses.append(loss)
            if not last and before.have_moved():
                raise BlockError(
                    f"verify needs auxiliary networks that draw no random numbers, and that of block {index}, a "
                    f"{type(block.aux).__name__}, does: set its dropout to 0, or call model.eval()"
                )

    def loss(self, target: Target, j: int) -> Tensor:
        """The loss that block j follows, with those of blocks on the way where the target adds them."""
        end = target.loss_block(j, len(self.blocks) - 1)
        return sum(self.losses[j:end] if target.adds_local else [], start=self.losses[end])

    def activity(self, target: Target, j: int) -> Tensor:
        """Sec. 3.2: the gradient of that loss with respect to h_j."""
        return self.gradients(self.loss(target, j), [self.outputs[j]])[0]

    def vjp(self, j: int, cotangent: Tensor) -> list[Tensor]:
        """A cotangent of h_j pulled back to the parameters of block j, if it has any."""
        return self.gradients(self.outputs[j], self.parameters[j], cotangent)

    def gradients(self, output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
        """Vector-Jacobian products by autograd, zeros where nothing leads to an input; the graph stays."""
        if not inputs or not output.requires_grad:
            return [torch.zeros_like(x) for x in inputs]
        with self.buffers.again(nn.ModuleList(self.blocks)):  # a checkpoint runs what is in it once more
            found = torch.autograd.grad(
                output, inputs, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return [dense(gradient.detach()) for gradient in found]

    def rows(self, j: int, cotangent: Tensor) -> list[Tensor]:
        """What each sample's cotangent alone gives, for every parameter; where nothing couples the samples."""
        return [torch.stack(rows) for rows in zip(*(self.vjp(j, alone) for alone in each_alone(cotangent)))]


def each_alone(rows: Tensor) -> list[Tensor]:
    """As many tensors as rows, each with one of them and zeros elsewhere."""
    alone = [torch.zeros_like(rows) for _ in rows]
    for i, row in enumerate(rows):
        alone[i][i] = row
    return alone


class Definition(WholeNetwork):
    """Targets, directions and estimates (Eqs. 1, 4 and 5) of a network.

    Args:
        blocks: the network, in double precision.
        images: ``(batch, ...)``.
        labels: as the losses take them.
        target: the gradient that is approximated.
        guess: gives directions in the space of h_j, or in the space itself; it is asked on the whole graph.
        space: where targets are projected, with the coefficient.
        auxiliaries: what is wanted of the auxiliary networks.

    Attributes:
        epsilon: machine epsilon of the coarsest numbers that the network computes with.
        rounding: how far rounding may take what is computed in two ways, of the largest number there is.
        exact: gradients of parameters that are not estimated: of the last block, of auxiliary networks, or of all.
        coupled: blocks in which samples matter to each other, where coefficients are of a sample: the first module that
            has them do so, with its name.
        targets: by place, ``(samples, units, features)``; the whole batch's weights are one sample.
        directions: by place, ``(k, samples, units, features)``.

    Raises:
        BlockError: there is no such estimate.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        images: Tensor,
        labels: Tensor,
        target: Target,
        guess: Guess,
        space: Perturbation,
        auxiliaries: Auxiliaries,
    ) -> None:
        self.target, self.guess, self.space = target, guess, space
        guess.prepare(blocks)
        space.coefficient_of(guess).prepare()
        recording = {"recording": record_calls} if space.in_parameters and space.by_sample else {}
        super().__init__(blocks, images, labels, auxiliaries=auxiliaries.evaluated, **recording)
        dtypes = {torch.float64, *Graph.of(self.losses[-1]).dtypes()}  # a body may compute in another one
        self.epsilon = max(torch.finfo(dtype).eps for dtype in dtypes)
        self.rounding = 1e3 * self.epsilon
        *rest, last = range(len(blocks))
        trained = [j for j in rest if self.parameters[j] and space.trains]
        self.exact = dict(zip(own := trainable(blocks[last]), self.gradients(self.losses[last], own)))
        for j in rest if auxiliaries.trained else []:
            self.exact |= zip(own := trainable(blocks[j].aux), self.gradients(self.losses[j], own))
        for j in [] if guess.projects else trained:
            self.exact |= zip(self.parameters[j], self.vjp(j, self.activity(target, j)))
        self.projected = trained if guess.projects else []
        self.coupled: dict[int, tuple[str, nn.Module]] = {}
        self.network = NetworkPass(
            blocks,
            Batch.of(images, labels),
            self.buffers,
            GRADIENT_ALONE,
            record_calls,
            needs=guess.needs,
        )
        passes = zip(blocks, self.inputs, self.outputs, self.parameters, self.calls)
        self.network.passes = [
            BlockPass(j, block, self.network, x, h, own, GRADIENT_ALONE, Graph.of(h), calls)
            for j, (block, x, h, own, calls) in enumerate(passes)
        ]
        if "error" in guess.needs:
            (self.network.error,) = self.gradients(self.losses[last], [self.logits])
        for j in self.projected if space.by_sample else []:
            if by := coupled_by(blocks[j].body, self.inputs[j], partial(self._again, j), self.rounding):
                self.coupled[j] = by
        self.targets = {
            (j, i): self._split(t)
            for j in self.projected
            for i, t in enumerate(self._in_space(j, self.activity(target, j)))
        }
        # The gradient where forward mode meets it: at the end of the last block on the way, before its loss.
        self.ends = {j: min(target.loss_block(j, last), last - 1) for j in self.projected}
        self.arriving = {
            j: self.gradients(self.loss(target, j), [self.outputs[end]])[0] for j, end in self.ends.items()
        }
        self.directions = {}  # last, since a guess may draw auxiliary networks anew
        for j in self.projected:
            for i, g in enumerate(self._directions(j)):
                units = torch.stack([self._split(one) for one in g])
                if space.spans:  # all samples' directions are each sample's
                    units = units.flatten(0, 1).unsqueeze(1).expand(-1, *self.targets[j, i].shape)
                self.directions[j, i] = units

    def _in_space(self, j: int, cotangent: Tensor) -> list[Tensor]:
        """A cotangent of h_j as tensors ``(samples, *shape)`` of the space."""
        if not self.space.in_parameters:
            return [cotangent]
        return self.rows(j, cotangent) if self.space.by_sample else [g.unsqueeze(0) for g in self.vjp(j, cotangent)]

    def _split(self, tensor: Tensor) -> Tensor:
        """``(samples, *shape)`` as ``(samples, units, features)``."""
        units = tensor.shape[1 : 1 + self.space.units.dimensions].numel()
        return tensor.reshape(len(tensor), units, -1)

    def _directions(self, j: int) -> list[Tensor]:
        """Those of block j, ``(k, samples, *shape)`` for each tensor of the space."""
        guess, space, block_pass, pulled = self.guess, self.space, self.network.passes[j], None
        if guess.pulled:
            pulled = [torch.stack(g) for g in zip(*(self._in_space(j, g) for g in guess.directions(block_pass)))]
        if not space.in_parameters:
            return [*guess.in_space(block_pass, pulled, [self.outputs[j].detach()], by_sample=True)]
        likes = [p.detach() for p in self.parameters[j]]
        if space.by_sample:
            likes = [like.expand(len(self.labels), *like.shape) for like in likes]
            each = [(pulled and [pulled[i]], [like]) for i, like in enumerate(likes)]
            found = [g for one in each for g in guess.in_space(block_pass, *one, by_sample=True)]
        else:
            whole = pulled and [g.squeeze(1) for g in pulled]
            found = [g.unsqueeze(1) for g in guess.in_space(block_pass, whole, likes, by_sample=False)]
        if guess.is_gradient:
            return found
        return [block_pass.without_padding(p, g, fresh=True) for p, g in zip(self.parameters[j], found)]

    @contextmanager
    def _again(self, j: int) -> Iterator[None]:
        with generators_at(self.states[j]), self.buffers.again(self.blocks[j].body):
            yield

    def rows(self, j: int, cotangent: Tensor) -> list[Tensor]:
        """As ever; where samples are coupled, what each sample's cotangent of a layer's output alone gives.

        That is for layers, or operations, that a parameter goes through alone; see ``WeightPerSamplePerturbation``.
        """
        found = super().rows(j, cotangent)
        block_pass = self.network.passes[j]
        for i, p in enumerate(self.parameters[j] if j in self.coupled else []):
            call, _ = block_pass.by_sample.get(p, (None, ""))
            if call is not None:
                (there,) = block_pass.vjp(cotangent, [call])
                found[i] = torch.stack([call.vjp(p, alone) for alone in each_alone(there)])
        return found

    def _products(self, *, all_move: bool) -> dict[Place, Tensor]:
        """Inner products of targets and directions by place, ``(samples, units, k)``."""
        if not all_move:
            return {
                place: torch.einsum("suf,ksuf->suk", t, self.directions[place]) for place, t in self.targets.items()
            }
        found: dict[Place, list[Tensor]] = {place: [] for place in self.targets}
        for j in self.projected:
            for share in each_alone(self.arriving[j]):
                below = self.gradients(self.outputs[self.ends[j]], [self.outputs[j]], share)[0]
                for i, t in enumerate(self._in_space(j, below)):
                    found[j, i].append(torch.einsum("suf,ksuf->uk", self._split(t), self.directions[j, i]))
        return {place: torch.stack(rows) for place, rows in found.items()}

    def estimates(
        self, *, all_move: bool = False, step: float | None = None
    ) -> dict[nn.Parameter, tuple[Tensor, Tensor]]:
        """The estimate of every parameter that has one, and by how much errors of inner products move it.

        Args:
            all_move: whether a sample's product with its target is the derivative of what it adds to the loss as all
                samples move along their directions, as in ``ForwardMode``; else, that of the whole loss as it moves
                alone. Without layers that couple samples they are the same.
            step: ε of finite differences, with an error up to √ε of |t||g| where kinks as of ReLU lie within, and that
                of rounding both losses, over ε; see ``FiniteDifferences``. None: exact but for rounding.
        """
        products, off = self._products(all_move=all_move), {}
        for (j, i), g in self.directions.items():
            length = self.targets[j, i].norm(dim=-1, keepdim=True)
            error = self.rounding * max(t.norm(dim=-1).max() for place, t in self.targets.items() if place[0] == j)
            if step is not None:
                error = error + step**0.5 * length + 10 * self.epsilon * self.loss(self.target, j).detach().abs() / step
            off[j, i] = error * g.norm(dim=-1).movedim(0, -1)
        truth, more, less = (
            self._estimates({place: p + sign * off[place] for place, p in products.items()}) for sign in (0, 1, -1)
        )
        return {p: (truth[p], (more[p] - less[p]).abs()) for p in truth}

    def _estimates(self, products: dict[Place, Tensor]) -> dict[nn.Parameter, Tensor]:
        """The estimates with some inner products."""
        space, places, found = self.space, [*self.targets], dict[nn.Parameter, Tensor]()
        groups = [[place for place in places if place[0] == j] for j in self.projected]
        if space.units.joins_blocks:
            groups = [places] * bool(places)
        elif space.in_parameters and space.by_sample:
            groups = [[place] for place in places]
        estimates = {}
        for group in groups:
            t, g = [self.targets[place] for place in group], [self.directions[place] for place in group]
            grams = [torch.einsum("lsuf,msuf->sulm", one, one) for one in g]
            known = [[products[place] for place in group], grams, [one.square().sum(-1) for one in t]]
            sizes, features = [one.shape[1] for one in t], [one.shape[2] for one in t]
            if space.units.joins_tensors:
                known, features = [[torch.stack(x).sum(0)] for x in known], [sum(features)] * len(t)
            c = self._coefficients(group[0][0], *(torch.cat(x, 1) for x in known))
            for place, own, one, d in zip(group, c.expand(-1, sum(sizes), -1).split(sizes, 1), g, features):
                correction = self.guess.length_correction(len(one), d)
                estimates[place] = correction * torch.einsum("suk,ksuf->suf", own, one)
        for j in self.projected:
            if space.in_parameters:  # Eq. 4
                found |= {p: estimates[j, i].sum(0).view_as(p) for i, p in enumerate(self.parameters[j])}
            else:  # Eq. 5
                found |= zip(self.parameters[j], self.vjp(j, estimates[j, 0].view_as(self.outputs[j])))
        return found

    def _coefficients(self, j: int, products: Tensor, gram: Tensor, targets: Tensor) -> Tensor:
        """The coefficients of units, ``(samples, units, k)``.

        Args:
            j: the block.
            products: ⟨t, g_m⟩, ``(samples, units, k)``.
            gram: ⟨g_l, g_m⟩, ``(samples, units, k, k)``.
            targets: |t|², ``(samples, units)``.
        """
        squares, how = gram.diagonal(dim1=-2, dim2=-1), "span" if self.space.spans else self.guess.combine
        scale = torch.where(squares > 0, squares, torch.inf).rsqrt()
        if how == "span":  # (G G^T)^+ G t, of directions at unit length
            unit = scale.unsqueeze(-1) * gram * scale.unsqueeze(-2)
            inverse = torch.linalg.pinv(unit, rtol=gram.shape[-1] * self.epsilon, hermitian=True)
            return scale * torch.einsum("sulm,sum->sul", inverse, scale * products)
        factors = self.space.coefficient_of(self.guess).factors(
            Units(products, squares, targets, j, self.network.batch)
        )
        if how != "max":
            return factors / factors.shape[-1]
        aligned = products.abs() * scale
        alike = aligned >= (1 - 1e-8) * aligned.amax(-1, keepdim=True)
        return factors * (alike & (alike.cumsum(-1) == 1))
