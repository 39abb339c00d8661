"""A setting, a choice or a group that nothing reads is refused with what there is."""

import pytest
from helpers import GUESSES, PERTURBATIONS, TARGETS, compose
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from fglight import build_estimator, load_config
from fglight.config import check_config
from fglight.config.settings import CONFIG_DIR, GROUPS, UnknownSettingError
from fglight.errors import ConfigError


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("override", ["{}=null", "{}=NULL", "+{}=null", "~{}", "{}=null,other"])
def test_a_group_without_a_choice_is_refused_with_what_can_be_chosen(group, override):
    choices = [file.stem for file in (CONFIG_DIR / group).glob("*.yaml")]
    override = override.format(group)
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert str(caught.value).endswith(f", got {override}")
    cfg = compose()
    cfg[group] = None
    with pytest.raises(ConfigError, match=f"^{group} must be .*got {group}=null") as late:
        check_config(cfg)
    for error in (caught.value, late.value):
        assert all(choice in str(error) for choice in choices)
        assert "\n" not in str(error)


def test_groups_are_those_of_the_configuration():
    assert set(GROUPS) == {
        "aux",
        "callbacks",
        "data",
        "engine",
        "guess",
        "logger",
        "lora",
        "loss",
        "model",
        "optim",
        "perturb",
        "scheduler",
        "target",
        "trainer",
    }


@pytest.mark.parametrize(
    ("override", "exists"),
    [
        ("guess=locl", GUESSES),
        ("target=glob", TARGETS),
        ("perturb=act", PERTURBATIONS),
        ("aux=vgg", ("cnn", "mlp", "linear", "predsim")),
        ("data=mnist", ("digits", "fashion_mnist", "cifar10", "cifar100", "imagenet32", "imagenette")),
        ("model=vgg", ("resnet18_8", "resnet18_16")),
    ],
)
def test_an_unknown_choice_lists_what_exists(override, exists):
    with pytest.raises(HydraException) as caught:
        load_config([override])
    assert all(choice in str(caught.value) for choice in exists)


@pytest.mark.parametrize(
    ("override", "unknown"),
    [("modle.width=1", "modle"), ("model.widht=1", "widht"), ("optim.learning_rate=0.1", "learning_rate")],
)
def test_an_unknown_setting_is_refused_by_name(override, unknown):
    with pytest.raises(HydraException, match=unknown):
        load_config([override])


def refusal(*overrides):
    """The one line in which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("optimizer.lr=0.1", "did you mean optim.lr?"),
        ("model.widht=0.5", "did you mean model.width?"),
        ("gues=local", "did you mean guess?"),
        ("batch_size=64", "did you mean data.batch_size?"),
        ("guess.trained=1", "did you mean trained or aux.trained?"),
        ("callback=early_stopping", "did you mean callbacks?"),
        ("foo=1", "there are aux, blocks, "),
        ("+optim.foo=1", "there are optim.block_lr, optim.dampening, optim.decay_vectors, "),
        ("+model.foo=1", "there are model.blocks, model.name, model.network, model.stem"),
        ("+data.foo=1", "there are data.augment, data.batch_size, "),
        ("data.source.foo=1", "there are data.augment, data.batch_size, "),
        ("+guess.foo=1", "there are guess.combine, guess.name"),
        ("+target.foo=1", "there are target.name"),
        ("+engine.foo=1", "there are engine.name"),
        ("+aux.foo=1", "there are aux.depth, aux.hidden, aux.name, aux.trained"),
        ("+logger.foo=1", "there are logger.entity, "),
        ("+trainer.foo=1", "there are trainer.accelerator, "),
        ("trainer.min_epoch=2", "did you mean trainer.max_epochs?"),  # not min_epochs, which a run cannot honour
        ("data.seed=1", "did you mean seed?"),  # given by the run
        ("aux.width=1", "did you mean model.width?"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_with_the_nearest_that_exist(override, nearest):
    message = refusal(override)
    assert message.startswith(f"{override.lstrip('+')} is not possible, nothing reads it: {nearest}")
    assert "trainer.callbacks" not in message


def test_a_setting_that_a_callback_does_not_have_is_refused():
    message = refusal("callbacks=early_stopping", "callbacks.early_stopping.patienc=3")
    assert message.endswith("nothing reads it: did you mean callbacks.early_stopping.patience?")


def test_a_setting_of_another_choice_is_refused():
    assert "there are aux.hidden, aux.name, aux.pool" in refusal("aux=linear", "aux.depth=2")


def test_a_setting_in_python_is_refused_where_nothing_reads_it():
    cfg = load_config()
    with pytest.raises(ConfigAttributeError):
        cfg.model.widht = 0.5
    OmegaConf.update(cfg, "model.widht", 0.5, force_add=True)
    with pytest.raises(UnknownSettingError, match=r"did you mean model\.width\?"):
        check_config(cfg)


OWN = """
from fglight.estimators import RandomGuess

class Closed(RandomGuess):
    def __init__(self, density=0.1, directions=1):
        super().__init__(directions)

    def sample(self, like):
        return like

class Open(Closed):
    def __init__(self, **settings):
        super().__init__(directions=settings.pop("directions"))

def made(density, **settings):
    return Closed(density)

broken = 3
"""


def test_components_of_one_s_own_have_settings_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "own_guesses.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def own(name, *overrides):
        return ["guess=gaussian", "~guess.combine", "~guess.rescale", f"guess._target_=own_guesses.{name}", *overrides]

    for name, overrides in (
        ("Closed", ["guess.density=0.5"]),
        ("Open", ["guess.any=1"]),
        ("made", ["guess.density=1"]),
    ):
        estimator = build_estimator(load_config(own(name, *overrides)))
        assert type(estimator.guess).__name__ in ("Closed", "Open")
    assert "guess.densty=0.5 is not possible, nothing reads it: did you mean guess.density?" in refusal(
        *own("Closed", "guess.densty=0.5")
    )
    for name, reason in (("broken", "3 is not a callable"), ("Gone", "has no attribute 'Gone'")):
        assert refusal(*own(name)).startswith(f"guess._target_=own_guesses.{name} is not possible: ")
        assert reason in refusal(*own(name))
    assert "No module named 'gone'" in refusal("guess._target_=gone.Guess")
    assert refusal("~guess._target_") == "guess._target_ must be the name of a class, got None"


@pytest.mark.parametrize("override", ["guess==local", "data.mean=[0.1", "guess", "optim.lr=range(1,"])
def test_an_override_that_cannot_be_read_is_told_in_one_line(override):
    assert refusal(override).startswith(f"{override} cannot be read (")


def test_an_interpolation_that_leads_nowhere_is_told_in_one_line():
    assert refusal("optim.lr=${nothing}") == "optim.lr has no value: Interpolation key 'nothing' not found"
    assert refusal("seed=${nothing}") == "seed has no value: Interpolation key 'nothing' not found"


@pytest.mark.parametrize(
    ("override", "setting", "value"),
    [
        (
            "model.network._target_=torchvision.models.resnet18",
            "model.network",
            "{'_target_': 'torchvision.models.resnet18'}",
        ),
        ("guess.name=[mine]", "guess.name", "['mine']"),
    ],
)
def test_a_name_that_is_none_is_refused(override, setting, value):
    assert refusal(override) == f"{setting} must be a name, got {value}"


@pytest.mark.parametrize("override", ["table=3", "seeds=0", "plan=true"])
def test_what_belongs_to_a_sweep_is_refused_in_a_run(override):
    assert f"{override} belongs to a sweep" in refusal(override)
