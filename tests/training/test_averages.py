"""Averages of weights have all that a guess keeps."""

import lightning as L
import pytest
import torch
from fitting import BATCH, TINY, Images, fit
from helpers import build, module_of, snapshot
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader


def averaged(folder, guess, average, epochs=2):
    """Train with a callback that averages weights: the module, its states at the starts of epochs and after steps."""
    perturb = "weight" if guess == "momentum" else "activity"
    model, estimator, _ = build(TINY, guess=guess, perturb=perturb, dtype=torch.float32)
    module, starts, steps = module_of(model, estimator), [], []
    copy = L.pytorch.callbacks.LambdaCallback(
        on_train_epoch_start=lambda *_: starts.append(snapshot(module.model)),
        on_train_batch_end=lambda *_: steps.append(snapshot(module.model)),
    )
    fit(module, folder, epochs, callbacks=[average, copy])
    return module, starts, steps


@pytest.mark.parametrize("guess", ["local", "dfa", "drtp", "momentum"])
def test_a_moving_average_has_all_that_a_guess_keeps(guess, tmp_path):
    module, (start, *_), steps = averaged(tmp_path, guess, EMAWeightAveraging(decay=0.75))
    mean = start | {name: steps[0][name] for name in steps[0].keys() - start.keys()}
    assert mean.keys() == start.keys(), "the first step brought more"
    for state in steps:
        first = state is steps[0]  # which takes the place of what there was
        mean = {name: state[name] if first else 0.75 * old + 0.25 * state[name] for name, old in mean.items()}
    for name, value in snapshot(module.model).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, mean[name])


@pytest.mark.parametrize("guess", ["local", "dfa", "momentum"])
def test_stochastic_weight_averaging_trains_no_step_beyond_its_average(guess, tmp_path):
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    module, starts, _ = averaged(tmp_path, guess, average)
    assert len(starts) == 3  # the last is for the statistics of batch normalisation
    for name, parameter in module.model.named_parameters():
        torch.testing.assert_close(parameter, torch.stack([start[name] for start in starts[:2]]).mean(0))
    images = Images().images.split(BATCH)
    norm = next(layer for layer in module.model.blocks[0].body.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    inputs = [module.model.blocks[0].body[0](batch) for batch in images]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))


def test_a_network_may_have_what_its_guess_keeps_before_it_is_copied():
    model, estimator, batch = build(TINY, guess="dfa", perturb="activity")
    estimator.guess.set_up(model.blocks, batch[0])
    before = snapshot(model)
    average = AveragedModel(model)
    estimator.estimate(model, *batch)
    average.update_parameters(model)
    assert snapshot(average.module).keys() == before.keys()
    for block, copy in zip(model.blocks[:-1], average.module.blocks):
        assert torch.equal(copy.feedback, block.feedback)


def test_what_a_guess_keeps_leaves_data_and_generators_as_they_are(tmp_path):
    class Kept(L.Callback):
        def setup(self, trainer, module, stage):
            self.drawn, self.keeps = torch.rand(3), hasattr(module.model.blocks[0], "feedback")

    drawn = []
    for guess in ("local", "dfa"):
        model, estimator, _ = build(TINY, guess=guess, perturb="activity", dtype=torch.float32)
        kept, images = Kept(), Images()
        torch.manual_seed(1)
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[kept], default_root_dir=tmp_path)
        trainer.fit(module_of(model, estimator), DataLoader(images, batch_size=BATCH, shuffle=True))
        drawn.append(kept.drawn)
        assert kept.keeps == (guess == "dfa")
    assert torch.equal(*drawn)
