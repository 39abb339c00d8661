"""The factors that make estimates of directions, by their definitions."""

from pathlib import Path

import pytest
import torch
from definition import COEFFICIENTS, Definition
from helpers import (
    ALL_PERTURBATIONS,
    assert_all_close,
    assert_same_gradients,
    body_gradients,
    build,
    estimator_of,
    every_pair,
    gradients,
    tapped_blocks,
    uncoupled_blocks,
)

from fglight.errors import ConfigError
from fglight.estimators import (
    ActivityPerturbation,
    GlobalTarget,
    GradientEstimator,
    LocalGuess,
    WeightPerSamplePerturbation,
    WeightPerturbation,
)
from fglight.estimators.coefficients import COEFFICIENTS as ALL_COEFFICIENTS
from fglight.estimators.coefficients import Coefficient, Magnitude, RandomSign, Stale, read_coefficient

WAYS = [case for case in ALL_PERTURBATIONS if case[0] != "activity_span"]
every_way = pytest.mark.parametrize(("perturb", "granularity"), WAYS)


@every_pair(engine=["reverse", "forward"], name=COEFFICIENTS, way=WAYS)
def test_each_by_its_definition(engine, name, way):
    perturb, granularity = way
    if (perturb, name) == ("weight", "positive"):
        name = "sign"
    if name == "stale:1" and perturb != "weight":
        name = "projection"
    if (engine, name) == ("forward", "norm"):
        name = "unit"
    blocks, batch = uncoupled_blocks()
    settings = {"perturb.granularity": granularity, "perturb.coefficient": name}
    estimator_of(settings, perturb=perturb, engine=engine).estimate(blocks, *batch)
    expected = Definition(blocks, *batch).estimates("global", perturb, granularity, coefficient=name)
    assert_all_close(body_gradients(blocks), expected, 1e-8)


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@every_way
def test_random_signs_are_signs_of_units(perturb, granularity, engine):
    """Estimates are sums of c g; the c that are drawn are found by least squares, unit by unit."""
    blocks, batch = tapped_blocks()
    definition = Definition(blocks, *batch)
    guesses = [definition.activity("local", j) for j in range(3)]
    settings = {"perturb.granularity": granularity, "perturb.coefficient": "random_sign"}
    estimator = estimator_of(settings, perturb=perturb, engine=engine)
    found = []
    for _ in range(4):
        estimator.estimate(blocks, *batch)
        estimates, signs = body_gradients(blocks), []
        for j, part in enumerate(estimates):
            if perturb == "activity":  # the gradient of a tap is what arrives at a block's output
                start = {"sample": 1, "channel": 2}[granularity]
                c, g = part[-1].flatten(0, start - 1), guesses[j].flatten(0, start - 1)
                signs.append((c * g).reshape(len(c), -1).sum(1) / (g * g).reshape(len(g), -1).sum(1))
            elif perturb == "weight":
                for e, g in zip(part, definition.weight("local", j)):
                    shape = (len(e), -1) if granularity == "filter" else (1, -1)
                    e, g = e.reshape(shape), g.reshape(shape)
                    used = (g * g).sum(1) > 1e-12
                    signs.append(((e * g).sum(1) / (g * g).sum(1))[used])
            elif j > 0:  # batch norm couples the samples of block 0
                for e, rows in zip(part, definition.rows(j, guesses[j])):
                    rows = rows.flatten(1)
                    if torch.linalg.matrix_rank(rows) == len(rows):
                        signs.append(torch.linalg.lstsq(rows.T, e.flatten()[:, None]).solution.flatten())
        assert all(((s.abs() - 1).abs() < 1e-6).all() for s in signs)
        if granularity == "block":
            signs = [torch.stack([s[0] for s in signs])]
        found.append(torch.cat(signs).round())
    found = torch.stack(found)
    assert set(found.unique().tolist()) == {-1, 1} or granularity == "network"
    if granularity == "network":
        assert (found == found[:, :1]).all()
    else:
        assert (found != found[:1]).any()


def test_random_signs_are_drawn_with_equal_probability_and_at_random():
    torch.manual_seed(0)
    signs = RandomSign()(None, torch.zeros(40_000, dtype=torch.float64))
    assert signs.unique().tolist() == [-1, 1]
    assert signs.mean().abs() < 5 / len(signs) ** 0.5
    assert (signs[1:] * signs[:-1]).mean().abs() < 5 / len(signs) ** 0.5


@every_pair(way=WAYS, target=["global", "intermediate"], engine=["reverse", "forward"], cosine=[False, True])
def test_one_with_a_local_guess_is_local_learning_to_the_last_bit(way, target, engine, cosine):
    perturb, granularity = way
    settings = {"model.width": 1 / 8, "aux.hidden": 4}
    model, exact, batch = build(settings, dtype=torch.float32, target="local", guess="exact")
    settings |= {"perturb.granularity": granularity, "perturb.coefficient": "one"}
    other, one, _ = build(settings, dtype=torch.float32, target=target, perturb=perturb, engine=engine)
    exact.estimate(model, *batch)
    one.estimate(other, *batch, cosine=cosine and engine == "reverse")
    assert_same_gradients(gradients(other), gradients(model), tolerance=0)


@pytest.mark.parametrize("granularity", ["sample", "channel"])
def test_a_projection_on_the_target_itself_is_local_learning_to_rounding(granularity):
    blocks, batch = tapped_blocks()
    settings = {"perturb.granularity": granularity, "perturb.coefficient": "projection"}
    estimator_of(settings, target="local", guess="local", perturb="activity").estimate(blocks, *batch)
    projected = gradients(blocks)
    estimator_of(target="local", guess="exact").estimate(blocks, *batch)
    assert_same_gradients(projected, gradients(blocks))


@pytest.mark.parametrize(
    ("guess", "default", "other"), [("local", "projection", "inner"), ("gaussian", "inner", "sign")]
)
@every_way
def test_null_is_the_guesss_own(perturb, granularity, guess, default, other):
    results = []
    for name in (None, default, other):
        blocks, batch = uncoupled_blocks()
        torch.manual_seed(1)
        settings = {"perturb.granularity": granularity, "perturb.coefficient": name}
        estimator_of(settings, guess=guess, perturb=perturb).estimate(blocks, *batch)
        results.append(gradients(blocks))
    assert_same_gradients(results[0], results[1], tolerance=0)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_gradients(results[2], results[1])


@pytest.mark.parametrize("given", ["coefficient", "guess"])
def test_a_coefficient_of_ones_own(given):
    class Double(Coefficient):
        uses_products = False

        def __call__(self, product, square):
            return 2 * torch.ones_like(square)

    class Guess(LocalGuess):
        def coefficient(self, product, square):
            return 2 * torch.ones_like(square)

    blocks, batch = uncoupled_blocks()
    definition = Definition(blocks, *batch)
    parts = {"coefficient": (LocalGuess(), Double()), "guess": (Guess(), None)}[given]
    for kind in (ActivityPerturbation, WeightPerturbation, WeightPerSamplePerturbation):
        GradientEstimator(GlobalTarget(), parts[0], kind(coefficient=parts[1])).estimate(blocks, *batch)
        expected = [[2 * g for g in definition.weight("local", j)] for j in range(4)]
        assert_all_close(body_gradients(blocks), expected)


@pytest.mark.parametrize("name", ["inner", "sign", "positive", "one"])
def test_the_mean_over_several_directions(name):
    """By a coefficient each; in activity space, whose estimate a tap holds."""
    blocks, batch = tapped_blocks()
    settings = {"guess.directions": 3, "perturb.coefficient": name}
    estimator = estimator_of(settings, guess="gaussian", perturb="activity")
    drawn = []
    estimator.guess.sample = lambda like: drawn.append(torch.randn_like(like)) or drawn[-1]
    estimator.estimate(blocks, *batch)
    mine = iter(drawn)
    expected = Definition(blocks, *batch).estimates(
        "global", "activity", "sample", draw=lambda like: [next(mine) for _ in range(3)], coefficient=name
    )
    assert_all_close(body_gradients(blocks), expected)


def test_where_no_sample_is_positive_the_estimate_is_zero():
    blocks, batch = tapped_blocks()
    estimator = estimator_of({"perturb.coefficient": "positive"}, target="local", perturb="activity")
    directions = estimator.guess.directions
    estimator.guess.directions = lambda here: -directions(here)
    estimator.estimate(blocks, *batch)
    assert all((p == 0).all() for part in body_gradients(blocks) for p in part)


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize("name", ["random_sign", "one"])
@every_way
def test_what_needs_no_derivative_takes_none(perturb, granularity, name, engine, monkeypatch):
    blocks, batch = uncoupled_blocks()
    settings = {"perturb.granularity": granularity, "perturb.coefficient": name}
    estimator = estimator_of(settings, perturb=perturb, engine=engine)

    def refuse(*args, **options):
        raise AssertionError

    monkeypatch.setattr(
        "fglight.estimators.engines.reverse._products",
        lambda parts, targets, *_, **__: refuse() if targets else (parts, None, None),
    )
    monkeypatch.setattr("fglight.estimators.engines.directional.DirectionalStep.moves", refuse)
    monkeypatch.setattr("fglight.estimators.engines.forward._ForwardStep._products", refuse)
    estimator.estimate(blocks, *batch)
    assert all(p.grad.isfinite().all() for block in blocks for p in block.body.parameters())


@pytest.mark.parametrize(
    ("perturb", "settings", "said"),
    [
        ("weight", {"perturb.coefficient": "cosine"}, r"must be null or one of projection, inner.*, got cosine"),
        ("weight", {"perturb.coefficient": "constant"}, r"must be constant:K with K a number .*, got constant with no"),
        ("weight", {"perturb.coefficient": "constant:0"}, r"must be constant:K with K a .* 0, got constant with 0"),
        ("weight", {"perturb.coefficient": "constant:inf"}, r"must be constant:K with K a .*, got constant with inf"),
        ("weight", {"perturb.coefficient": "stale:1.5"}, r"must be stale:K with K a whole .*, got stale with 1\.5"),
        ("weight", {"perturb.coefficient": 2}, "must be null, a name, or a Coefficient by its _target_, got 2"),
        ("weight", {"perturb.coefficient": {"k": 2}}, "must be null, a name, or a .*, got {'k': 2}"),
        ("weight", {"perturb.coefficient": "one:2"}, r"must be one alone, got one with :2"),
        ("activity", {"perturb.coefficient": "stale:5"}, r"must be one of projection, .* with ActivityP.*, got stale"),
        (
            "weight",
            {"perturb.coefficient": "positive"},
            r"must be one of projection, .* with WeightP.*, got positive",
        ),
        (
            "activity_span",
            {"perturb.coefficient": "one"},
            r"must be one of projection with ActivitySp.*, got one",
        ),
        (
            "weight",
            {"perturb.coefficient": "sign", "guess.combine": "span", "guess.directions": 2},
            r"must be one of projection with guess\.combine=span, got sign$",
        ),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(perturb, settings, said):
    with pytest.raises(ConfigError, match=rf"^perturb\.coefficient {said}"):
        estimator_of(settings, guess="gaussian", perturb=perturb)


def test_with_an_exact_guess_it_plays_no_role():
    results = []
    for name in (None, *(set(ALL_COEFFICIENTS) - {"constant", "stale", "replayed"}), "constant:2", "stale:3"):
        blocks, batch = uncoupled_blocks()
        estimator_of({"perturb.coefficient": name}, guess="exact").estimate(blocks, *batch)
        results.append(gradients(blocks))
    for other in results[1:]:
        assert_same_gradients(other, results[0], tolerance=0)


def factors_of(blocks, batch, estimates):
    """c of each tensor of blocks 0 to J-2, where the estimate is c g for the local gradient g."""
    definition = Definition(blocks, *batch)
    guesses = [definition.weight("local", j) for j in range(len(estimates))]
    return [
        torch.tensor([float((e * g).sum() / (g * g).sum()) for e, g in zip(*pair, strict=True)], dtype=torch.float64)
        for pair in zip(estimates, guesses, strict=True)
    ]


def test_shuffled_gives_each_tensor_the_factor_of_another_of_its_block():
    blocks, batch = uncoupled_blocks()
    estimator_of().estimate(blocks, *batch)
    own = factors_of(blocks, batch, body_gradients(blocks))
    estimator = estimator_of({"perturb.coefficient": "shuffled"})
    moved = 0
    for _ in range(3):
        estimator.estimate(blocks, *batch)
        for mine, theirs in zip(factors_of(blocks, batch, body_gradients(blocks)), own):
            assert_all_close([mine.sort().values], [theirs.sort().values])
            moved += int(((mine - theirs).abs() > 1e-6).any())
    assert moved > 0


@pytest.mark.parametrize("engine", ["reverse", "forward"])
def test_random_sign_magnitude_has_the_length_of_the_projection_and_a_sign_of_its_own(engine):
    blocks, batch = uncoupled_blocks()
    estimator_of().estimate(blocks, *batch)
    own = torch.cat(factors_of(blocks, batch, body_gradients(blocks)))
    estimator = estimator_of({"perturb.coefficient": "random_sign_magnitude"}, engine=engine)
    ratios = []
    for _ in range(4):
        estimator.estimate(blocks, *batch)
        ratios.append(torch.cat(factors_of(blocks, batch, body_gradients(blocks))) / own)
    signs = torch.stack(ratios)
    assert ((signs.abs() - 1).abs() < 1e-6).all()
    assert (signs > 0).any()
    assert (signs < 0).any()


@every_pair(engine=["reverse", "forward"], granularity=["tensor", "block", "network"], every=["3", "inf"])
def test_stale_keeps_the_factors_of_the_step_in_which_they_were_taken(engine, granularity, every):
    """Each step has other images; the projections of those before are found on copies."""
    blocks, (images, labels) = uncoupled_blocks()
    settings = {"perturb.granularity": granularity}
    estimator = estimator_of(settings | {"perturb.coefficient": f"stale:{every}"}, engine=engine)
    fresh = estimator_of(settings)
    for step in range(5):
        batch = images + step, labels
        if step in ((0, 3) if every == "3" else (0,)):
            fresh.estimate(blocks, *batch)
            expected = factors_of(blocks, batch, body_gradients(blocks))
        estimator.estimate(blocks, *batch)
        found = factors_of(blocks, batch, body_gradients(blocks))
        assert_all_close(found, expected)


def test_stale_takes_derivatives_in_every_kth_step_alone(monkeypatch):
    blocks, batch = uncoupled_blocks()
    estimator = estimator_of({"perturb.coefficient": "stale:3"}, engine="forward")
    asked = []
    moves = "fglight.estimators.engines.directional.DirectionalStep.moves"
    original = estimator.engine.products.__globals__["DirectionalStep"].moves
    monkeypatch.setattr(moves, lambda self, *parts: asked.append(step) or original(self, *parts))
    for step in range(7):  # noqa: B007 (what is asked for notes it)
        estimator.estimate(blocks, *batch)
    assert set(asked) == {0, 3, 6}


def test_stale_goes_on_from_its_state():
    blocks, (images, labels) = uncoupled_blocks()
    whole, first, second = (WeightPerturbation(coefficient=Stale(4)) for _ in range(3))
    results = []
    for step in range(6):
        batch = images + step, labels
        GradientEstimator(GlobalTarget(), LocalGuess(), whole).estimate(blocks, *batch)
        results.append(gradients(blocks))
        if step == 3:
            second.coefficient.load_state_dict(first.coefficient.state_dict())
        GradientEstimator(GlobalTarget(), LocalGuess(), first if step < 3 else second).estimate(blocks, *batch)
        assert_same_gradients(gradients(blocks), results[-1], tolerance=0)


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize("granularity", ["tensor", "block", "network"])
def test_replayed_has_the_means_of_what_was_recorded(granularity, engine, tmp_path):
    blocks, (images, labels) = uncoupled_blocks()
    settings = {"perturb.granularity": granularity}
    recorder = estimator_of(settings | {"perturb.coefficient": "recorded"}, engine=engine)
    seen = []
    for step in range(3):
        batch = images + step, labels
        recorder.estimate(blocks, *batch)
        seen.append(factors_of(blocks, batch, body_gradients(blocks)))
        if step == 1:  # interrupted, and gone on with
            state = recorder.coefficient.state_dict()
            recorder = estimator_of(settings | {"perturb.coefficient": "recorded"}, engine=engine)
            recorder.coefficient.load_state_dict(state)
    torch.save({"coefficient": recorder.coefficient.state_dict()}, tmp_path / "last.ckpt")
    replayer = estimator_of(settings | {"perturb.coefficient": f"replayed:{tmp_path / 'last.ckpt'}"}, engine=engine)
    replayer.estimate(blocks, images - 1, labels)
    found = factors_of(blocks, (images - 1, labels), body_gradients(blocks))
    assert_all_close(found, [torch.stack(steps).mean(0) for steps in zip(*seen)])
    other = estimator_of({"perturb.granularity": "filter", "perturb.coefficient": f"replayed:{tmp_path / 'last.ckpt'}"})
    with pytest.raises(ValueError, match=r"^perturb.coefficient=replayed must have factors of shape .* for block"):
        other.estimate(blocks, images, labels)


@pytest.mark.parametrize("content", [None, {}, {"coefficient": {}}, b"no checkpoint"])
def test_what_was_not_recorded_cannot_be_replayed(content, tmp_path):
    file = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(
        ConfigError, match=r"^perturb.coefficient must be replayed:K with K the checkpoint .*, got repl"
    ):
        estimator_of({"perturb.coefficient": f"replayed:{file}"})


def test_stale_keeps_those_of_another_coefficient():
    blocks, batch = uncoupled_blocks()
    estimates = []
    for coefficient in (Magnitude(), Stale(5, Magnitude())):
        GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(coefficient=coefficient)).estimate(
            blocks, *batch
        )
        estimates.append(gradients(blocks))
    assert_same_gradients(*estimates, tolerance=0)


@pytest.mark.parametrize("engine", ["forward", "finite"])
def test_the_target_s_length_is_known_in_reverse_mode_alone(engine):
    with pytest.raises(ConfigError, match=rf"^perturb\.coefficient must do without .* engine={engine}, got norm: use"):
        estimator_of({"perturb.coefficient": "norm"}, engine=engine)


def test_every_name_reads_as_its_coefficient_and_has_a_row_of_the_docs():
    page = (Path(__file__).parents[2] / "docs/coefficients.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    for name, kind in ALL_COEFFICIENTS.items():
        assert name == "replayed" or type(read_coefficient(f"{name}:2" if kind.takes else name)) is kind
        assert rows.count(f"`{name}:K`" if kind.takes else f"`{name}`") == 1, name


def test_one_of_ones_own_is_a_class_with_settings(monkeypatch):
    class Times(Coefficient):
        def __init__(self, k):
            self.k = k

        def __call__(self, product, square):
            return self.k * torch.ones_like(square)

    monkeypatch.setattr("helpers.Times", Times, raising=False)
    estimator = estimator_of({"perturb.coefficient": {"_target_": "helpers.Times", "k": 3}})
    assert (type(estimator.coefficient), estimator.coefficient.k) == (Times, 3)
