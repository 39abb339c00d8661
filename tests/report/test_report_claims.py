"""What synthetic runs say about the paper's claims."""

from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from written_runs import ROWS, cell, result, scores_of, write_metrics, write_run

from fglight.paper.claims import ACCURACY, CLAIMS
from fglight.report.metrics import read_metrics
from fglight.report.scores import FULL, score
from fglight.report.verdicts import groups, judge, judge_all
from fglight.runs.collect import collect


def text_of(claim_text):
    return next(claim for claim in CLAIMS if claim.text.startswith(claim_text))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_a_claim_compares_cells_of_the_paper(claim):
    assert claim.comparisons
    for comparison in claim.comparisons:
        assert {quantity.cell for quantity in comparison.quantities} <= ROWS.keys()
        assert not set(comparison.plus) & set(comparison.minus)


def room_of(quantity):
    """How far inside of a claim's bounds the numbers of these tests are; seeds differ by a tenth of it."""
    return 0.5 if quantity.metric == ACCURACY else 0.1


def required(claim, comparisons, outcome):
    """Numbers for all quantities of which each comparison comes out as wanted, by linear programming.

    Where a claim is about some comparisons, the first alone holds: two may exclude each other.
    """
    quantities = list(dict.fromkeys(quantity for each in comparisons for quantity in each.quantities))
    room = room_of(quantities[0])
    bound = claim.least if claim.least > -inf else claim.most
    between = {
        "holds": (claim.least + room, claim.most - room),
        "does not hold": (-inf, claim.least - room) if claim.least > -inf else (claim.most + room, inf),
        "within noise": (bound, bound),
    }
    least, most = between[outcome]
    bounded = comparisons[:1] if outcome == "holds" and claim.of == "some" else comparisons
    signs = np.array([[(q in each.plus) - (q in each.minus) for q in quantities] for each in bounded])
    limits = (5, 95) if quantities[0].metric == ACCURACY else (-20, 20)
    found = milp(np.zeros(len(quantities)), constraints=LinearConstraint(signs, least, most), bounds=Bounds(*limits))
    assert found.success, found.message
    return dict(zip(quantities, found.x))


def write_runs(folder, numbers, seeds):
    """Runs whose results and metrics have these numbers, and a little more or less in other seeds."""
    runs: dict[tuple, dict] = {}
    for quantity, number in numbers.items():
        runs.setdefault((quantity.cell, quantity.probe), {})[quantity] = number
    for (trained, probe), of_run in runs.items():
        ended = result(trained, 0.5, settings={"probe": True, "aux.name": probe} if probe else {})
        for seed in seeds:
            metrics = pd.DataFrame({"epoch": [0.0] * 100, "step": range(100)})
            accuracy = 0.5
            for quantity, number in of_run.items():
                value = number + room_of(quantity) * (seed - (len(seeds) - 1) / 2) / 10
                if quantity.metric == ACCURACY:
                    accuracy = value / 100
                else:
                    start, stop = quantity.period or (0.99, 1)
                    metrics.loc[100 * start : 100 * stop - 1, quantity.metric] = value
            of_seed = {"seed": seed, "test_accuracy": accuracy}
            run = write_run(folder / f"{trained}{probe}-{seed}", ended | of_seed)
            write_metrics(run, metrics)


def judged(claim, folder):
    return judge(claim, score(collect([folder]).finished), lambda run: read_metrics(run, []))


OUTCOMES = [("holds", 2, "holds"), ("holds", 1, "holds"), ("does not hold", 2, "does not hold")]
OUTCOMES += [("within noise", 2, "within noise"), ("nothing", 2, "not enough runs")]


@pytest.mark.parametrize(("numbers", "seeds", "answer"), OUTCOMES, ids=lambda value: str(value))
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_each_claim_is_judged_by_runs(tmp_path, claim, numbers, seeds, answer):
    where, comparisons = next(iter(groups(claim)))
    if numbers == "nothing":  # but for all runs of one quantity
        known = dict(list(required(claim, comparisons, "holds").items())[1:])
        known = known if claim.of == "all" else dict(list(known.items())[:1])
    else:
        known = required(claim, comparisons, numbers)
    write_runs(tmp_path, known, range(seeds))
    verdict = judged(claim, tmp_path)
    if not verdict.findings:
        assert answer == "not enough runs"
        assert where in verdict.unknown
        return
    finding = next(finding for finding in verdict.findings if finding.where == where)
    assert (finding.answer, finding.single) == (answer, seeds == 1), finding.count


def read_from(folder, *results):
    """The scores of runs with these results, and no metrics."""
    return scores_of(folder, *results), lambda run: read_metrics(run, [])


def test_claims_judge_the_papers_own_numbers_as_computed_by_hand(tmp_path):
    verdict = judge(text_of("The MLP is the best"), *read_from(tmp_path))
    # Table 2: on ImageNet32 with weight perturbation the CNN has 40.0 and the MLP 37.4. On CIFAR-10 with weight
    # perturbation the MLP's 88.7 ± 1.2 lead the CNN's 88.0 ± 0.4 by less than 1.6.
    assert verdict.paper.counts == {"holds": 6, "does not hold": 1, "within noise": 1}
    (exception,) = [compared for compared in verdict.paper.made if compared.outcome == "does not hold"]
    assert exception.lead == pytest.approx(-2.6)
    assert verdict.paper.answer == "does not hold"
    assert (verdict.findings, verdict.unknown) == ((), ("cifar10, 16 blocks", "imagenet32, 16 blocks"))


def test_a_span_that_gains_or_loses_much_does_not_improve_marginally(tmp_path):
    verdict = judge(text_of("Projecting on the span of a batch"), *read_from(tmp_path))
    gains = {
        (compared.comparison.plus[0].cell.blocks, compared.comparison.plus[0].cell.aux): (
            round(compared.lead, 1),
            compared.outcome,
        )
        for compared in verdict.paper.made
    }
    # Table 6 against Tables 2 and 3.
    assert gains == {
        (8, "cnn"): (1.9, "holds"),
        (8, "mlp"): (0.4, "within noise"),
        (8, "linear"): (18.1, "does not hold"),
        (16, "cnn"): (10.6, "does not hold"),
        (16, "mlp"): (-6.8, "does not hold"),
        (16, "linear"): (26.7, "does not hold"),
    }


def test_the_loss_from_8_blocks_to_16_is_compared_between_guesses(tmp_path):
    verdict = judge(text_of("Local guesses with weight perturbation lose least"), *read_from(tmp_path))
    (compared,) = [
        each
        for each in verdict.paper.made
        if each.comparison.plus[0].cell == cell("cifar10 8 1 global local linear activity")
    ]
    # Tables 2 and 3: 65.9 - 46.7 points with activity perturbation, 88.9 - 86.1 with weight perturbation.
    assert compared.lead == pytest.approx((65.9 - 46.7) - (88.9 - 86.1))
    assert compared.outcome == "holds"


def mlp_is_best(*leads, seeds=1, **changes):
    """Runs of Table 2's CIFAR-10 cells in which the MLP leads the CNN and the linear auxiliary by some points.

    Seeds lie a point apart.
    """
    for perturb, lead in zip(("activity", "weight"), leads):
        for aux, accuracy in (("mlp", 0.8), ("cnn", 0.8 - lead / 100), ("linear", 0.8 - lead / 100)):
            for seed in range(seeds):
                trained = cell(f"cifar10 16 1 global local {aux} {perturb}")
                yield result(trained, accuracy + seed / 100, seed=seed, **changes)


@pytest.mark.parametrize(
    ("leads", "seeds", "answer", "count"),
    [
        ((1, 2), 1, "holds", "4 of 4 comparisons hold"),
        ((1, -1), 1, "does not hold", "2 of 4 comparisons hold"),
        ((1,), 1, "not enough runs", "2 of 2 comparisons hold, 2 cannot be made"),
        ((-1,), 1, "does not hold", "0 of 2 comparisons hold, 2 cannot be made"),
        ((1.3, 2), 2, "within noise", "2 of 4 comparisons hold, 2 are within noise"),  # two deviations of 0.7
        ((1.3,), 2, "not enough runs", "0 of 2 comparisons hold, 2 are within noise, 2 cannot be made"),
        ((1.3, -2), 2, "does not hold", "0 of 4 comparisons hold, 2 are within noise"),
        ((2, 2), 2, "holds", "4 of 4 comparisons hold"),
    ],
)
def test_an_answer_is_given_once_missing_runs_cannot_change_it(tmp_path, leads, seeds, answer, count):
    scores = read_from(tmp_path, *mlp_is_best(*leads, seeds=seeds))
    (finding,) = judge(text_of("The MLP is the best"), *scores).findings
    assert (finding.where, finding.setting, finding.answer, finding.count, finding.single) == (
        "cifar10, 16 blocks",
        FULL,
        answer,
        count,
        seeds == 1,
    )


def test_most_comparisons_are_enough_where_the_paper_says_so(tmp_path):
    claim = text_of("NTK guesses improve on random")
    runs = [result(cell(f"cifar10 16 1 global {guess} - weight"), 0.5) for guess in ("gaussian", "rademacher")]
    runs += [result(cell(f"cifar10 16 1 global ntk {aux} weight"), 0.6) for aux in ("cnn", "mlp", "linear")]
    (finding,) = judge(claim, *read_from(tmp_path / "half", *runs)).findings
    assert (finding.counts["holds"], finding.answer) == (6, "not enough runs")  # 6 of 12 is not yet more than half
    runs += [result(cell(f"cifar10 16 1 global {guess} - activity"), 0.5) for guess in ("gaussian", "rademacher")]
    runs += [result(cell("cifar10 16 1 global ntk cnn activity"), 0.6)]
    (finding,) = judge(claim, *read_from(tmp_path / "more", *runs)).findings
    assert (finding.counts["holds"], finding.answer) == (8, "holds")


def test_only_runs_of_one_setting_are_compared_with_one_another(tmp_path):
    mixed = [*mlp_is_best(1, epochs=10)][:1] + [*mlp_is_best(1, epochs=20)][1:]
    verdict = judge(text_of("The MLP is the best"), *read_from(tmp_path, *mixed))
    assert (verdict.findings, verdict.unknown[0]) == ((), "cifar10, 16 blocks")


def test_scaled_down_runs_speak_only_where_no_full_scale_ones_can(tmp_path):
    claim = text_of("The MLP is the best")
    (scaled,) = judge(claim, *read_from(tmp_path, *mlp_is_best(-1, -1, epochs=10))).findings
    assert (scaled.scale, scaled.answer) == ("10 epochs", "does not hold")
    for number, words in enumerate(mlp_is_best(1, 1)):
        write_run(tmp_path / f"full{number}", words)
    (full,) = judged(claim, tmp_path).findings
    assert (full.scale, full.answer) == ("full scale", "holds")


def test_other_data_that_stand_for_several_sets_are_judged_once(tmp_path):
    runs = []
    for aux, guess, accuracy in (("cnn", "local", 0.9), ("", "gaussian", 0.5), ("", "rademacher", 0.5)):
        paper = cell(f"cifar100 8 1 global {guess} {aux or '-'} weight")
        runs.append(result(replace(paper, data="digits"), accuracy, like=paper, epochs=5))
    verdict = judge(text_of("Local guesses outperform random"), *read_from(tmp_path, *runs))
    assert [(finding.scale, finding.count) for finding in verdict.findings] == [
        ("digits, 5 epochs", "2 of 2 comparisons hold, 10 cannot be made")
    ]


def test_a_probe_of_another_auxiliary_network_says_nothing_of_the_cnns(tmp_path):
    claim = text_of("End-to-end: local train losses fall")
    comparisons = next(iter(groups(claim)))[1]
    numbers = required(claim, comparisons, "holds")
    write_runs(tmp_path, {replace(quantity, probe="mlp"): number for quantity, number in numbers.items()}, [0])
    assert judged(claim, tmp_path).findings == ()
    write_runs(tmp_path / "more", numbers, [0])
    (finding,) = judged(claim, tmp_path).findings
    assert finding.answer == "holds"


def test_claims_that_runs_decide_come_first(tmp_path):
    verdicts = judge_all(*read_from(tmp_path, *mlp_is_best(1, 2)))
    ranks = {verdict.claim.text: verdict.rank for verdict in verdicts}
    assert ranks["The MLP is the best local guess with 16 blocks."] == 0
    assert ranks["Local guesses gain from width."] == 2
    assert [*ranks.values()] == sorted(ranks.values())
    assert set(ranks.values()) == {0, 2}
    assert {verdict.claim for verdict in verdicts} == set(CLAIMS)
