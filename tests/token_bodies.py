"""Bodies of blocks as users may write them that keep tokens or images apart: ``(batch, TOKENS, WIDTH)`` to the same."""

from types import MethodType

import torch
import torch.nn.functional as F
from bodies import Body
from helpers import CHECKPOINTS_HAVE_TANGENTS
from torch import nn
from torch.utils.checkpoint import checkpoint

from fglight.estimators import (
    ActivityPerturbation,
    ActivitySpanPerturbation,
    ForwardMode,
    GlobalTarget,
    IntermediateTarget,
    LocalGuess,
    RandomGuess,
    ReverseMode,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.models import Block

SAMPLES, TOKENS, WIDTH, CLASSES = 5, 3, 8, 4


ENGINES = (ReverseMode, ForwardMode)


def linear(**options):
    return nn.Linear(WIDTH, WIDTH, **options)


def conv(channels=2, **options):
    return nn.Conv2d(channels, channels, 3, padding=1, **options)


# Bodies that map (samples, tokens, width) or (samples, 2, 4, 4) to the same.


def tied_by_a_function():
    return Body(lambda s, x: F.linear(torch.tanh(s.encode(x)), s.encode.weight.t()), encode=linear())


def tied_by_two_layers():
    body = Body(lambda s, x: s.second(torch.tanh(s.first(x))), first=linear(), second=linear())
    body.second.weight = body.first.weight
    return body


def tied_convolution():
    return Body(lambda s, x: F.conv_transpose2d(torch.tanh(s.conv(x)), s.conv.weight, padding=1), conv=conv())


def scaled_by_the_scale_of_a_norm():
    body = Body(lambda s, x: s.norm.weight * torch.tanh(s.norm(x)), norm=nn.LayerNorm(WIDTH))
    nn.init.uniform_(body.norm.weight)
    return body


def layer_used_by_a_function_alone():
    return Body(lambda s, x: F.linear(x, s.layer.weight) + s.layer(x).detach(), layer=linear())


def layer_called_without_gradient():
    def forward(self, x):
        with torch.no_grad():
            size = self.layer(x)
        return F.linear(x, self.layer.weight) * torch.sigmoid(size)

    return Body(forward, layer=linear())


def transformer_with_time_first():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0)
    return Body(lambda s, x: s.layer(x.transpose(0, 1)).transpose(0, 1), layer=layer)


def linear_with_time_first():
    return Body(lambda s, x: torch.tanh(s.layer(x.transpose(0, 1))).transpose(0, 1), layer=linear())


def recurrent_with_time_first():
    return Body(lambda s, x: s.layer(x.transpose(0, 1))[0].transpose(0, 1), layer=nn.GRU(WIDTH, WIDTH))


def windows_in_the_batch():
    layers = nn.Sequential(linear(), nn.LayerNorm(WIDTH), nn.Tanh())
    return Body(lambda s, x: s.layers(x.reshape(-1, 1, WIDTH)).view_as(x), layers=layers)


def tokens_in_the_batch():
    return Body(lambda s, x: s.layer(x.flatten(0, 1)).tanh().view_as(x), layer=linear())


def positions_that_broadcast():
    places, embedding = torch.arange(TOKENS), nn.Embedding(TOKENS, WIDTH)
    return Body(lambda s, x: torch.tanh(s.layer(x) + s.place(places)), layer=linear(), place=embedding)


def parameter_of_its_own():
    body = Body(lambda s, x: torch.tanh(s.layer(x) * s.scale), layer=linear())
    body.scale = nn.Parameter(torch.rand(WIDTH))
    return body


def subclass_with_another_forward():
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(2 * torch.tanh(x))

    return Body(lambda s, x: s.layer(x), layer=Doubled(WIDTH, WIDTH))


def norm_subclass_with_another_forward():
    class Twice(nn.LayerNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    class TwiceBatch(nn.BatchNorm1d):
        def forward(self, x):
            return 2 * super().forward(x)

    body = Body(lambda s, x: s.other(s.norm(x)).tanh(), norm=Twice(WIDTH), other=TwiceBatch(TOKENS))
    body.other.eval()
    return body


def layer_with_a_hook():
    layer = linear()
    layer.register_forward_hook(lambda module, inputs, output: torch.tanh(3 * output))
    return Body(lambda s, x: s.layer(x), layer=layer)


def layer_with_a_patched_forward():
    layer = linear()
    layer.forward = MethodType(lambda s, x: F.linear(torch.tanh(2 * x), s.weight, s.bias), layer)
    return Body(lambda s, x: s.layer(x), layer=layer)


def weight_norm():
    return Body(lambda s, x: torch.tanh(s.layer(x)), layer=nn.utils.parametrizations.weight_norm(linear()))


def convolution_without_a_batch():
    return Body(lambda s, x: torch.stack([torch.tanh(s.conv(image)) for image in x]), conv=conv())


def instance_norm():
    return Body(
        lambda s, x: torch.tanh(s.norm(s.conv(x))),
        conv=conv(bias=False),
        norm=nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
    )


def old_spectral_norm():
    return Body(lambda s, x: torch.tanh(s.layer(x)), layer=nn.utils.spectral_norm(linear()))


def spectral_norm():
    return Body(lambda s, x: torch.tanh(s.layer(x)), layer=nn.utils.parametrizations.spectral_norm(linear()))


def counted(in_place=True):
    def forward(self, x):
        if in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return torch.tanh(self.layer(x)) * (1 + self.calls)

    body = Body(forward, layer=linear())
    body.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    return body


def counted_by_another_buffer():
    return counted(in_place=False)


def running_mean_of_its_own():
    def forward(self, x):
        y = self.layer(x)
        with torch.no_grad():
            self.mean.lerp_(y.mean((0, 1)), 0.1)
        return torch.tanh(y) * (1 + self.mean)

    body = Body(forward, layer=linear())
    body.register_buffer("mean", torch.zeros(WIDTH))
    return body


def checkpointed():
    return Body(lambda s, x: checkpoint(lambda y: torch.tanh(s.layer(y)), x, use_reentrant=False), layer=linear())


def checkpointed_spectral_norm():
    layer = nn.utils.spectral_norm(linear())
    return Body(lambda s, x: checkpoint(lambda y: torch.tanh(s.layer(y)), x, use_reentrant=False), layer=layer)


CHECKPOINTED = (checkpointed, checkpointed_spectral_norm)


def without_gradient():
    def forward(self, x):
        with torch.no_grad():
            gate = torch.sigmoid(self.layer(x))
        return gate * self.layer(x)

    return Body(forward, layer=linear())


def dropout():
    return nn.Sequential(linear(), nn.Dropout(0.5))


def reentrant():
    return Body(lambda s, x: checkpoint(s.layer, x, use_reentrant=True), layer=linear())


BODIES = [
    tied_by_a_function,
    tied_by_two_layers,
    tied_convolution,
    scaled_by_the_scale_of_a_norm,
    layer_used_by_a_function_alone,
    layer_called_without_gradient,
    transformer_with_time_first,
    linear_with_time_first,
    recurrent_with_time_first,
    windows_in_the_batch,
    tokens_in_the_batch,
    positions_that_broadcast,
    parameter_of_its_own,
    subclass_with_another_forward,
    norm_subclass_with_another_forward,
    layer_with_a_hook,
    layer_with_a_patched_forward,
    weight_norm,
    convolution_without_a_batch,
    instance_norm,
    old_spectral_norm,
    spectral_norm,
    counted,
    counted_by_another_buffer,
    running_mean_of_its_own,
    checkpointed,
    checkpointed_spectral_norm,
    without_gradient,
]
"""No body here couples samples, so that a sample's gradient is what its row of the output's cotangent gives."""


IMAGES = (tied_convolution, convolution_without_a_batch, instance_norm)


def network(make):
    """Two blocks of a body and one of a linear layer, with a batch: ``(blocks, inputs, labels)``."""
    torch.manual_seed(0)
    shape = (2, 4, 4) if make in IMAGES else (TOKENS, WIDTH)
    size = torch.Size(shape).numel()

    def aux():
        return nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES))

    blocks = [Block(make(), aux()), Block(make(), aux()), Block(nn.Flatten(), nn.Linear(size, CLASSES))]
    inputs = torch.randn(SAMPLES, *shape, dtype=torch.float64)
    return [block.double() for block in blocks], inputs, torch.arange(SAMPLES) % CLASSES


class Wave(RandomGuess):
    """A direction that is the same each time it is drawn."""

    def sample(self, like):
        return torch.cos(torch.arange(like.numel(), dtype=like.dtype) ** 2).view(like.shape)


GUESSES = {"local": (LocalGuess, "global", GlobalTarget), "random": (Wave, "intermediate", IntermediateTarget)}


WAYS = {
    "activity": ActivityPerturbation,
    "activity_span": ActivitySpanPerturbation,
    "tensor": lambda: WeightPerturbation("tensor"),
    "network": lambda: WeightPerturbation("network"),
    "filter": lambda: WeightPerturbation("filter"),
    "weight_per_sample": WeightPerSamplePerturbation,
}


PAIRS = [(guess, way) for guess in GUESSES for way in WAYS if (guess, way) != ("random", "activity_span")]


def refused(make, engine, way):
    """What a step says of a body that it cannot run; None of all others."""
    if engine is ForwardMode and make is weight_norm and not way.startswith("activity"):
        return r"layer\.parametrizations\.weight\.0 of block 0, a _WeightNorm .*engine=rev"
    if engine is ForwardMode and make in CHECKPOINTED and not CHECKPOINTS_HAVE_TANGENTS:
        return "engine=forward cannot differentiate the body of block 0, a Body .*engine=reverse"
    return None
