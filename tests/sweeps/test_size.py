"""How large networks are."""

from helpers import compose
from planned import configured

from fglight.paper.grids import aux_sizes
from fglight.sweeps.size import aux_share, flops


def test_the_sizes_that_the_paper_chose_cost_less_than_a_tenth():
    for cell, settings in aux_sizes():
        chosen = {"mlp": "1024", "cnn": "32"}[cell.aux]
        if settings["aux.depth"] == "3" and settings["aux.hidden"] in (chosen, str(4 * int(chosen))):
            sizes = [f"aux={cell.aux}", "aux.depth=3", f"aux.hidden={settings['aux.hidden']}", "data=cifar10"]
            share = aux_share(configured(["target=local", "guess=exact", *sizes]))
            assert (share < 0.1) == (settings["aux.hidden"] == chosen)


def test_flops_of_a_local_loss_are_of_all_that_it_runs():
    """Predsim's loss is more than its logits: a convolution of all channels, and two matrices of similarities."""
    cfg = compose(aux="predsim")
    batch, classes = cfg.data.batch_size, cfg.data.num_classes
    outputs = zip((64, 64, 128, 128, 256, 256, 512), (32, 32, 16, 16, 8, 8, 4))
    for (_, aux), (channels, side) in zip(flops(cfg), outputs, strict=True):
        convolution = 2 * batch * 9 * channels**2 * side**2
        similarities = 2 * batch**2 * (channels + classes)
        assert aux == convolution + similarities + 2 * batch * 2048 * classes
