"""The same gradients as the authors' released code, on its networks, batches and random directions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close

from fglight import build_estimator, build_model, load_config

FILES = sorted((Path(__file__).parent / "reference").glob("*.npz"))
TOLERANCE = 1e-6
CASES = {
    "global_exact": ["target=global", "guess=exact"],
    "local_exact": ["target=local", "guess=exact"],
    **{
        f"global_{guess}_{perturb}": ["target=global", f"guess={guess}", f"perturb={perturb}"]
        for guess in ("local", "gaussian", "rademacher")
        for perturb in ("activity", "weight")
    },
    **{
        f"local_gaussian_{perturb}": ["target=local", "guess=gaussian", f"perturb={perturb}", "aux.trained=false"]
        for perturb in ("activity", "weight")
    },
    "global_local_span": ["target=global", "guess=local", "perturb=activity_span"],
    "global_local_weight_per_sample": ["target=global", "guess=local", "perturb=weight_per_sample"],
}


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def reference(request):
    with np.load(request.param) as file:
        return {key: file[key] for key in file.files}


def test_files_are_complete(reference):
    cases = {key.split("/")[0] for key in reference if "/" in key} - {"param"}
    assert cases == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_released_code(reference, case, device):
    meta = json.loads(str(reference["meta"]))
    blocks = meta["arch"].removeprefix("resnet18-").removesuffix("b")
    hidden = int(meta["h"] * meta["w"]) or "null"
    cfg = load_config(
        [
            "data=cifar10",
            f"model=resnet18_{blocks}",
            f"model.width={meta['w']}",
            f"aux={meta['aux']}",
            f"aux.hidden={hidden}",
            *CASES[case],
        ]
    )
    model = build_model(cfg).to(device, torch.float64)
    parameters = {
        f"block{j}.{part}{i}": parameter
        for j, block in enumerate(model.blocks)
        for part in ("body", "aux")
        for i, parameter in enumerate(getattr(block, part).parameters())
    }
    assert set(parameters) == {key.removeprefix("param/") for key in reference if key.startswith("param/")}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(reference[f"param/{name}"]))

    estimator = build_estimator(cfg)
    noise = iter([reference[key] for key in reference if key.startswith(f"{case}/noise/")])
    estimator.guess.sample = lambda like: torch.from_numpy(next(noise)).to(like).view_as(like)
    images, labels = (torch.from_numpy(reference[key]).to(device) for key in ("x", "y"))
    step = estimator.estimate(model, images, labels)

    assert step.loss.item() == pytest.approx(meta["loss"][case], rel=1e-12)
    assert next(noise, None) is None, "fewer directions were drawn"
    for name, parameter in parameters.items():
        gradient = reference.get(f"{case}/grad/{name}")
        if gradient is not None:
            assert parameter.grad is not None, name
            assert_close(parameter.grad.cpu(), torch.from_numpy(gradient).double(), TOLERANCE, name)
        elif "per_sample" not in case:
            assert parameter.grad is None, name


def test_every_convolution_is_compared_per_sample(reference):
    kernels = {key for key in reference if key.startswith("param/") and ".body" in key and reference[key].ndim == 4}
    prefix = "global_local_weight_per_sample/grad/"
    compared = {key.removeprefix(prefix) for key in reference if key.startswith(prefix)}
    assert {key.removeprefix("param/") for key in kernels} == {name for name in compared if ".body" in name}
