"""Bodies of blocks as users may write them: ``(batch, WIDTH)`` to the same, without a coupling of samples."""

from collections.abc import Callable
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

WIDTH = 4


class Body(nn.Module):
    """A function of itself and its input, with layers and parameters as attributes."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def with_layer(function: Callable[[nn.Module, Tensor], Tensor], **more: nn.Module | nn.Parameter) -> Body:
    """A body with one linear layer, ``s.layer``."""
    return Body(function, layer=linear(), **more)


# Layers of every kind


def plain():
    return nn.Sequential(linear(), nn.Tanh())


def no_layer():
    return nn.Identity()


def residual():
    return with_layer(lambda s, x: x + torch.tanh(s.layer(x)))


def normalized():
    return nn.Sequential(linear(), nn.LayerNorm(WIDTH), nn.Tanh())


def convolution():
    layers = (
        nn.Unflatten(1, (1, WIDTH)),
        nn.Conv1d(1, 2, 3, padding=1),
        nn.Flatten(),
        nn.Tanh(),
        nn.Linear(2 * WIDTH, WIDTH),
    )
    return nn.Sequential(*layers)


def padded_convolution():
    convolution = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    layers = (
        nn.Unflatten(1, (1, 2, 2)),
        convolution,
        nn.GroupNorm(1, 2),
        nn.Flatten(),
        nn.Tanh(),
        nn.Linear(2 * WIDTH, WIDTH),
    )
    return nn.Sequential(*layers)


def recurrent():
    return Body(lambda s, x: s.layer(x.view(-1, 2, 2))[0].flatten(1), layer=nn.GRU(2, 2, batch_first=True))


def attention():
    layer = nn.MultiheadAttention(2, 1, batch_first=True)
    return Body(lambda s, x: x + s.layer(*[x.view(-1, 2, 2)] * 3, need_weights=False)[0].flatten(1), layer=layer)


def bilinear():
    """A layer of two inputs."""
    return Body(lambda s, x: torch.tanh(s.layer(x, x)), layer=nn.Bilinear(WIDTH, WIDTH, WIDTH))


# Parameters that are shared, tied, frozen, unused, or no layer's


def shared():
    layer = linear()
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied():
    return with_layer(lambda s, x: torch.tanh(F.linear(torch.tanh(s.layer(x)), s.layer.weight.t())))


def functional():
    return Body(lambda s, x: torch.tanh(F.linear(x, s.weight)), weight=nn.Parameter(torch.randn(WIDTH, WIDTH) / 2))


def functional_and_layer():
    return with_layer(lambda s, x: torch.tanh(s.layer(x) + F.linear(x, s.layer.weight)))


def kept_elsewhere():
    body = with_layer(lambda s, x: torch.tanh(F.linear(s.layer(x), s.kept[0])))
    body.kept = [body.layer.weight]
    return body


def frozen_bias():
    body = plain()
    body[0].bias.requires_grad_(False)
    return body


def frozen_weight():
    body = plain()
    body[0].weight.requires_grad_(False)
    return body


def frozen():
    return plain().requires_grad_(False)


def low_rank():
    base, down, up = linear().requires_grad_(False), nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
    return Body(lambda s, x: s.base(x) + s.up(s.down(x)), base=base, down=down, up=up)


def unused():
    return with_layer(lambda s, x: torch.tanh(s.layer(x)), spare=linear())


def without_effect():
    return with_layer(lambda s, x: torch.tanh(s.layer(x) * 0 + x))


def scaled():
    """A parameter without dimensions."""
    return with_layer(lambda s, x: torch.tanh(s.scale * s.layer(x)), scale=nn.Parameter(torch.tensor(0.7)))


def broadcast():
    """A parameter without samples goes through a layer."""
    embedding = nn.Parameter(torch.randn(6, WIDTH))
    return with_layer(lambda s, x: torch.tanh(s.layer(x) + s.place(s.e[:WIDTH]).mean(0)), place=linear(), e=embedding)


def weight_norm():
    return nn.Sequential(parametrizations.weight_norm(linear()), nn.Tanh())


def spectral_norm():
    return nn.Sequential(parametrizations.spectral_norm(linear()), nn.Tanh())


def pruned():
    return nn.Sequential(prune.l1_unstructured(linear(), "weight", 0.3), nn.Tanh())


# Tensors in other places: in place, views, time first, time in the batch


def in_place():
    return nn.Sequential(linear(), nn.SiLU(inplace=True), linear(), nn.Tanh())


def methods_in_place():
    return with_layer(lambda s, x: s.layer(x).mul_(0.5).tanh_())


def view_in_place():
    def function(self, x):
        h = self.layer(x)
        h[:, :2].mul_(2.0)
        return torch.tanh(h)

    return with_layer(function)


def time_first():
    def function(self, x):
        steps = x.unsqueeze(2).expand(-1, -1, 3).transpose(0, 1)
        return torch.tanh(self.layer(steps)).transpose(0, 1).mean(2)

    return Body(function, layer=nn.Linear(3, WIDTH))


def time_in_the_batch():
    def function(self, x):
        steps = x.unsqueeze(1).repeat(1, 3, 1) * torch.tensor([1.0, 0.5, -1.0], dtype=x.dtype).view(1, 3, 1)
        return torch.tanh(self.layer(steps.flatten(0, 1))).view(len(x), 3, WIDTH).mean(1) + x

    return with_layer(function)


# Layers that are not what they seem


def subclass():
    class Squashed(nn.Linear):
        def forward(self, x):
            return F.linear(x, torch.tanh(self.weight), self.bias)

    return nn.Sequential(Squashed(WIDTH, WIDTH), nn.Tanh())


def other_forward():
    layer = linear()
    layer.forward = MethodType(lambda self, x: F.linear(x, 2 * self.weight, self.bias), layer)
    return nn.Sequential(layer, nn.Tanh())


def forward_hook():
    layer = linear()
    layer.register_forward_hook(lambda module, inputs, output: torch.tanh(2 * output))
    return nn.Sequential(layer, linear())


def pre_hook():
    layer = linear()
    layer.register_forward_pre_hook(lambda module, inputs: (torch.tanh(inputs[0]),))
    return nn.Sequential(layer, nn.Tanh())


# Gradients that are stopped, changed or taken inside


def detached_branch():
    return with_layer(lambda s, x: torch.tanh(s.layer(x)) + torch.tanh(s.other(x)).detach(), other=linear())


def detached_norm():
    return with_layer(lambda s, x: s.layer(x) / (1 + s.layer(x).detach().norm(dim=1, keepdim=True)))


def without_gradient():
    def function(self, x):
        with torch.no_grad():
            gate = torch.sigmoid(self.other(x))
        return torch.tanh(self.layer(x)) * gate

    return with_layer(function, other=linear())


def data_of_the_input():
    return with_layer(lambda s, x: torch.tanh(s.layer(x)) * torch.sigmoid(x.data))


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def straight_through():
    return with_layer(lambda s, x: Rounded.apply(torch.tanh(s.layer(x))))


def reversed_gradient():
    return with_layer(lambda s, x: torch.tanh(s.other(Reversed.apply(torch.tanh(s.layer(x))))), other=linear())


def backward_hook():
    layer = linear()
    layer.register_full_backward_hook(lambda module, inputs, outputs: tuple(g if g is None else g / 2 for g in inputs))
    return nn.Sequential(linear(), layer, nn.Tanh())


def hook_on_a_tensor():
    def function(self, x):
        h = self.layer(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: 0.3 * gradient)
        return torch.tanh(h)

    return with_layer(function)


def energy():
    """The gradient of a function of the input."""

    def function(self, x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(torch.tanh(self.layer(x)).square().sum(), x, create_graph=True)[0]

    return with_layer(function)


def energy_whoever_calls():
    """The same, with gradients turned on: tangents of the input are lost where it asks for none."""

    def function(self, x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(torch.tanh(self.layer(x)).square().sum(), x, create_graph=True)[0]

    return with_layer(function)


def sorted_samples():
    """As many rows as samples, in another order."""

    def function(self, x):
        order = x[:, 0].argsort()
        return torch.tanh(self.layer(x[order]))[order.argsort()]

    return with_layer(function)


def other_weights():
    """A layer's own ``forward``, on tensors that are made of its parameters."""

    def function(self, x):
        weights = {"weight": 2 * self.layer.weight, "bias": self.layer.bias}
        return torch.tanh(torch.func.functional_call(self.layer, weights, (x,)))

    return with_layer(function)


def hook_on_an_operation():
    def function(self, x):
        h = self.layer(x)
        if h.grad_fn is not None:
            h.grad_fn.register_hook(lambda inputs, outputs: tuple(g if g is None else g / 2 for g in inputs))
        return torch.tanh(h)

    return with_layer(function)


def number_from_a_tensor():
    return with_layer(lambda s, x: torch.tanh(s.layer(x)) / s.layer(x).abs().max().item())


def logged_number():
    """A number that no output depends on."""

    def function(self, x):
        h = torch.tanh(self.layer(x))
        self.largest = h.abs().max().item()
        return h

    return with_layer(function)


def gradient_as_a_constant():
    def function(self, x):
        z = torch.zeros_like(x).requires_grad_()
        with torch.enable_grad():
            (inner,) = torch.autograd.grad(torch.tanh(self.layer(z)).square().sum(), z)
        return torch.tanh(self.layer(x)) - inner

    return with_layer(function)


ORDINARY = (
    *(plain, no_layer, residual, normalized, convolution, padded_convolution, recurrent, attention, bilinear),
    *(shared, tied, functional, functional_and_layer, frozen_bias, frozen_weight, frozen, low_rank, unused),
    *(without_effect, scaled, broadcast, pruned, in_place, methods_in_place, view_in_place, time_first),
    *(time_in_the_batch, subclass, other_forward, forward_hook, pre_hook, sorted_samples, other_weights),
    *(logged_number,),
)
"""Every engine has the gradients of these."""

UNLIKE = (
    *(kept_elsewhere, weight_norm, spectral_norm, detached_branch, detached_norm, without_gradient, data_of_the_input),
    *(straight_through, reversed_gradient, backward_hook, hook_on_a_tensor, energy, energy_whoever_calls),
    *(hook_on_an_operation, number_from_a_tensor, gradient_as_a_constant),
)
"""An engine that pushes tangents or moves weights may refuse these."""
