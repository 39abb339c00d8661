"""Studies in a report, on made-up runs: rates, and differences over the same seeds."""

import pytest
from scipy.stats import ttest_rel
from study_runs import FROZEN, GUESS, OVERRIDES, SAME, line

from fglight.paper import TABLES
from fglight.report.command import main
from fglight.report.contents import build
from fglight.report.estimators import as_frame, fill
from fglight.runs.collect import collect
from fglight.studies import STUDIES


def test_a_guess_stands_beside_local_learning_over_the_same_seeds(runs):
    for seed, (guessed, learned) in enumerate(zip((0.78, 0.84, 0.80), (0.79, 0.81, 0.79))):
        runs.add(GUESS, guessed, seed)
        runs.add(SAME, learned, seed)
    runs.add(SAME, 0.1, seed=3)  # only one of the two has it
    lead = line(runs.filled(), GUESS).local
    assert (lead.difference.mean, lead.answer) == (pytest.approx(1), "not told apart")
    assert lead.difference.interval() == pytest.approx(ttest_rel([78, 84, 80], [79, 81, 79]).confidence_interval())


def test_differences_whose_intervals_leave_out_0_are_told(runs):
    for seed in range(3):
        runs.add(GUESS, 0.9 + seed / 100, seed)
        runs.add(SAME, 0.8 + seed / 90, seed)
        runs.add(FROZEN, 0.95 + seed / 110, seed)
    guess = line(runs.filled(), GUESS)
    assert (guess.local.difference.mean, guess.local.answer) == (pytest.approx(9.9, abs=0.1), "more")
    assert (guess.frozen.difference.mean, guess.frozen.answer) == (pytest.approx(-4.9, abs=0.1), "less")
    assert line(runs.filled(), FROZEN).frozen is None
    assert runs.filled().better == [GUESS]


def test_of_many_estimators_a_lead_that_one_in_many_has_by_chance_is_not_told(runs):
    """Each alone has a p value of 0.035; of three, by Holm's method, the smallest would have to be below 0.05 / 3."""
    labels = [GUESS, "Local guess, CNN, activity", "NTK guess, CNN, weight"]
    for seed in range(3):
        runs.add(SAME, 0.5, seed)
    for count, answer in ((1, "more"), (3, "not told apart")):
        for label in labels[count // 3 : count]:
            for seed, lead in enumerate((0.02, 0.03, 0.04)):
                runs.add(label, 0.5 + lead, seed)
        filled = runs.filled()
        assert {line(filled, label).local.answer for label in labels[:count]} == {answer}


def test_every_run_s_accuracy_is_in_the_file(runs):
    for seed, accuracy in enumerate((0.9, 0.92)):
        runs.add(GUESS, accuracy, seed)
    runs.add(GUESS, 0.8, held_out=True)
    frame = as_frame([runs.filled()]).set_index("estimator")
    assert frame.loc[GUESS, "accuracies"] == "0:90.00000 1:92.00000"
    assert frame.loc[GUESS, "held_out"] == "0.05:80.00000"


@pytest.mark.parametrize(("seeds", "answer"), [(1, "one run"), (2, "two seeds")])
def test_fewer_than_three_seeds_are_not_enough(runs, seeds, answer):
    for seed in range(seeds):
        runs.add(GUESS, 0.9, seed)
        runs.add(SAME, 0.8, seed)
    lead = line(runs.filled(), GUESS).local
    assert (lead.answer, str(lead.difference)) == (answer, ", ".join(["+10.0"] * seeds))


def test_a_rate_at_the_edge_of_those_searched_gives_no_verdict(runs):
    for seed in range(3):
        runs.add(GUESS, 0.9 + seed / 1000, seed)
        runs.add(SAME, 0.8, seed)
    for lr in (0.05, 0.2):
        runs.add(SAME, lr, lr=lr, held_out=True)
        runs.add(SAME, 0.8, lr=lr)
    assert line(runs.filled(), GUESS).local.answer == "one run"  # of the edge's rate there is one
    for seed in (1, 2):
        runs.add(SAME, 0.8, seed, lr=0.2)
    assert line(runs.filled(), GUESS).local.answer == "rate at the edge"


def test_the_rate_is_the_best_on_held_out_images_whatever_tests_say(runs):
    for lr, held_out, tested in ((0.2, 0.5, 0.99), (0.05, 0.7, 0.6), (0.0125, 0.6, 0.98)):
        runs.add(GUESS, held_out, lr=lr, held_out=True)
        runs.add(GUESS, tested, lr=lr)
    found = line(runs.filled(), GUESS)
    assert (found.rate, found.at_edge, found.score.mean) == (0.05, False, pytest.approx(60))
    assert found.held_out == pytest.approx({0.2: 50, 0.05: 70, 0.0125: 60})
    runs.add(GUESS, 0.8, lr=0.8, held_out=True)
    assert (line(runs.filled(), GUESS).rate, line(runs.filled(), GUESS).at_edge) == (0.8, True)


def test_checkpointed_backpropagation_is_a_row_of_the_budget_and_backpropagation_elsewhere(runs):
    runs.add("Backpropagation, checkpointed", 0.9)
    found = {name: runs.filled(name) for name in ("budget", "guesses")}
    assert line(found["budget"], "Backpropagation, checkpointed").score.mean == pytest.approx(90)
    assert line(found["budget"], "Backpropagation").score is None
    assert line(found["guesses"], "Backpropagation").score.mean == pytest.approx(90)
    runs.add("Backpropagation", 0.7, seed=1)
    assert runs.filled("guesses").scale == runs.filled("budget").scale == found["budget"].scale


def test_a_rate_that_was_not_searched_is_marked(runs, tmp_path):
    runs.add(FROZEN, 0.5, lr=0.2)
    for lr in (0.2, 0.05, 0.0125):
        runs.add(GUESS, 0.9 - abs(lr - 0.05), lr=lr, held_out=True)
    runs.add(GUESS, 0.9)
    filled = runs.filled()
    assert (line(filled, FROZEN).searched, line(filled, GUESS).searched) == (False, True)
    assert main([str(runs.folder), "--study", "guesses", "--out", str(tmp_path / "report")]) == 0
    lines = (tmp_path / "report/tables.md").read_text().splitlines()
    (frozen, guess) = ([row for row in lines if row.startswith(f"| {label} |")] for label in (FROZEN, GUESS))
    assert (frozen[0][-8:], guess[0][-9:]) == ("| 0.2† |", "| 0.05‡ |")


def test_several_seeds_choose_a_rate_by_their_mean_and_others_tell(runs):
    """A rate that one of them lacks is not chosen."""
    for lr, scores in ((0.8, (0.99,)), (0.2, (0.5, 0.6)), (0.05, (0.7, 0.6)), (0.0125, (0.9, 0.2))):
        for seed, score in enumerate(scores):
            runs.add(GUESS, score, seed, lr=lr, held_out=True)
    for seed in (2, 3):
        runs.add(GUESS, 0.8, seed)
    found = line(runs.filled(), GUESS)
    assert found.held_out == pytest.approx({0.2: 55, 0.05: 65, 0.0125: 55})
    assert (found.rate_in_words, found.score.seeds) == ("0.05", (2, 3))
    runs.add(GUESS, 0.8, 1)
    assert line(runs.filled(), GUESS).rate_in_words == "0.05‡"


def test_searches_are_in_no_table_and_studies_alone_have_no_claims(runs):
    runs.add("Backpropagation", 0.9)
    runs.add("Backpropagation", 0.3, lr=0.2, held_out=True)
    report = build([runs.folder], TABLES, (), ())
    assert {score.mean for found in report.results.by_scale.values() for score in found.values()} == {90}
    assert report.kinds == {"scaled down": 1, "on held-out images": 1}
    assert report.verdicts
    assert not build([runs.folder], (), (), ["guesses"]).verdicts


def test_controls_beside_tables_are_those_of_the_papers_rate(runs):
    for lr, held_out, tested in ((0.2, 0.9, 0.95), (0.05, 0.5, 0.6)):
        for label in (FROZEN, "Backpropagation"):
            runs.add(label, held_out, lr=lr, held_out=True)
            runs.add(label, tested, lr=lr)
    ((study, ((filled, _),)),) = build([runs.folder], TABLES, (), ()).studies
    assert study.name == "controls"
    assert [line(filled, label).score.mean for label in (FROZEN, "Backpropagation")] == [60, 60]
    assert line(runs.filled(), FROZEN).score.mean == 95


def test_estimators_of_another_study_are_no_scale_of_this_one(runs):
    runs.add(GUESS, 0.9)
    runs.add("Local guess, weight, one a filter", 0.8)
    assert line(runs.filled(), GUESS).score.mean == 90
    assert line(runs.filled("continuum"), "Local guess, weight, one a filter").score.mean == 80
    assert line(runs.filled("continuum"), "Local guess, weight, one a tensor").score.mean == 90
    OVERRIDES["DFA a filter"] = "guess=dfa perturb=weight perturb.granularity=filter"  # nobody else's
    runs.add("DFA a filter", 0.7)
    scales = fill(STUDIES["guesses"], collect([runs.folder]).finished)
    assert ["granularity filter" in str(filled.scale) for filled in scales] == [True, False]
