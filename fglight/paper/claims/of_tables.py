"""What the tables decide: one part of the cell changes, and accuracy with it."""

from math import inf

from fglight.paper.claims.claim import Claim, Parts, leads, leads_more

TWO = ("cifar10", "imagenet32")
AUX, RANDOM, BOTH = ("cnn", "mlp", "linear"), ("gaussian", "rademacher"), ("activity", "weight")
LOCAL_GUESS: Parts = {"target": "global", "guess": "local", "aux": AUX, "perturb": BOTH}
RANDOM_GUESS: Parts = {"target": "global", "guess": RANDOM}
GUESSES: Parts = {"target": "global", "aux": AUX, "perturb": BOTH, "width": 1}
LOCAL_LEARNING: Parts = {"target": "local", "guess": "exact", "data": "cifar10", "aux": AUX}
SPAN: Parts = {**LOCAL_GUESS, "data": "cifar10", "width": 1, "perturb": "activity_span"}
END_TO_END: Parts = {"target": "global", "guess": "exact", "width": 1}

TABLE_CLAIMS: tuple[Claim, ...] = (
    Claim(
        "Local guesses outperform random guesses.",
        "Sec. 4.2, Tables 2 and 3; Sec. 4.5, Table 7",
        leads({**LOCAL_GUESS, "width": 1}, {"guess": RANDOM, "aux": ""}),
    ),
    Claim(
        "Local guesses improve on NTK guesses.",
        "Caption of Table 3; Sec. 4.2, Table 2; Sec. 4.5, Table 7",
        leads({**LOCAL_GUESS, "width": 1}, {"guess": "ntk"}),
    ),
    Claim(
        "NTK guesses improve on random guesses in most cases.",
        "Sec. 4.2, Tables 2 and 3; Sec. 4.5, Table 7",
        leads({**LOCAL_GUESS, "guess": "ntk", "width": 1}, {"guess": RANDOM, "aux": ""}),
        of="most",
    ),
    Claim(
        "The improvement of NTK guesses on random guesses is slight in most cases.",
        "Sec. 4.2, Tables 2 and 3",
        leads({**LOCAL_GUESS, "guess": "ntk", "width": 1, "data": TWO}, {"guess": RANDOM, "aux": ""}),
        least=-inf,
        most=5,
        of="most",
        reading="Slight is read as by less than 5 points.",
    ),
    Claim(
        "Local guesses do not close the gap to end-to-end training.",
        "Sec. 4.2 and Sec. 5, Tables 2, 3 and 7",
        leads(END_TO_END, {"guess": "local", "aux": AUX, "perturb": BOTH}),
    ),
    Claim(
        "With local guesses, weight perturbation outperforms activity perturbation.",
        "Captions of Tables 2 and 3; Sec. 4.2; Sec. 4.5, Table 7",
        leads({**LOCAL_GUESS, "width": 1, "perturb": "weight"}, {"perturb": "activity"}),
    ),
    Claim(
        "With 8 blocks, weight perturbation performs better for all guesses that are not random.",
        "Caption of Table 3 (CIFAR-10)",
        leads(
            {**GUESSES, "guess": ("local", "ntk"), "data": "cifar10", "blocks": 8, "perturb": "weight"},
            {"perturb": "activity"},
        ),
    ),
    Claim(
        "Activity perturbation has an advantage over weight perturbation for random guesses.",
        "Caption of Table 3 (8 blocks, CIFAR-10)",
        leads(
            {**RANDOM_GUESS, "data": "cifar10", "blocks": 8, "width": 1, "perturb": "activity"}, {"perturb": "weight"}
        ),
        reading="Table 3 does not print its numbers; Tables 2 (16 blocks) and 7 (other data) have the opposite.",
    ),
    Claim(
        "The MLP is the best local guess with 16 blocks.",
        "Caption of Table 2",
        leads(
            {**LOCAL_GUESS, "aux": "mlp", "blocks": 16, "width": 1, "data": TWO},
            {"aux": ("cnn", "linear")},
        ),
    ),
    Claim(
        "Training in 8 blocks beats training in 16, for the same target and guess.",
        "Sec. 4.2, Tables 2 and 3; Sec. 4.5, Table 7",
        leads(
            {
                "target": "global",
                "guess": ("local", "ntk", *RANDOM),
                "aux": ("", *AUX),
                "width": 1,
                "blocks": 8,
                "perturb": BOTH,
            },
            {"blocks": 16},
        ),
    ),
    Claim(
        "Local guesses with weight perturbation lose least from 8 blocks to 16.",
        "Sec. 4.2, Tables 2 and 3",
        leads_more(
            {**LOCAL_GUESS, "data": TWO, "width": 1, "perturb": "weight", "blocks": 8},
            {"blocks": 16},
            {"perturb": "activity"},
            {"guess": "ntk", "perturb": BOTH},
            {"guess": RANDOM, "aux": "", "perturb": BOTH},
        ),
        reading="Compared is the loss of each other guess and perturbation, with the same auxiliary network if any.",
    ),
    *(
        Claim(
            f"On {name} local guesses outperform random ones in some cases by about {points} points.",
            "Sec. 4.2, Tables 2 and 3",
            leads({**LOCAL_GUESS, "data": data, "width": 1}, {"guess": RANDOM, "aux": ""}),
            least=points - 5,
            most=points + 5,
            of="some",
            reading=f"About {points} is read as {points - 5} to {points + 5}.",
        )
        for name, data, points in (("CIFAR-10", "cifar10", 40), ("ImageNet32", "imagenet32", 20))
    ),
    Claim(
        "Random guesses of the local target do worse than of the global target.",
        "Sec. 4.3, Table 4 (and Tables 7 and 9)",
        leads({**RANDOM_GUESS, "width": 1}, {"target": "local", "aux": AUX}),
    ),
    Claim(
        "The intermediate target does worse than the global one.",
        "Sec. 4.3, Table 5 (against Tables 2 and 3)",
        leads(
            {"data": "cifar10", "target": "global", "guess": ("local", "ntk"), "aux": AUX, "width": 1},
            {"target": "intermediate"},
        ),
    ),
    Claim(
        "The intermediate target does worse than the global one, for random guesses.",
        "Sec. 4.3, Table 5 (against Table 2)",
        leads({**RANDOM_GUESS, "data": "cifar10", "width": 1}, {"target": "intermediate", "aux": AUX}),
    ),
    Claim(
        "The intermediate target does worse than the local one.",
        "Sec. 4.3, Table 5 (against Table 4)",
        leads(
            {**LOCAL_LEARNING, "width": 1},
            {"target": "intermediate", "guess": "local", "perturb": BOTH},
        ),
        reading="A local guess of the local target is local learning.",
    ),
    Claim(
        "The intermediate target does worse than the local one, for random guesses.",
        "Sec. 4.3, Table 5 (against Table 4)",
        leads(
            {"data": "cifar10", "target": "local", "guess": RANDOM, "aux": AUX, "width": 1}, {"target": "intermediate"}
        ),
    ),
    Claim(
        "Projecting on the span of a batch of local guesses improves on a single one.",
        "Sec. 4.4, Table 6 (against Tables 2 and 3)",
        leads(SPAN, {"perturb": "activity"}),
    ),
    Claim(
        "The improvement of the span of a batch of local guesses on a single one is marginal.",
        "Sec. 4.4, Table 6 (against Tables 2 and 3)",
        leads(SPAN, {"perturb": "activity"}),
        least=-inf,
        most=3,
        reading="Marginal is read as by less than 3 points.",
    ),
    Claim(
        "Projecting on the span is on par with local learning or worse.",
        "Sec. 4.4, Table 6 (against Table 4)",
        leads(
            {**LOCAL_LEARNING, "width": 1},
            {"target": "global", "guess": "local", "perturb": "activity_span"},
        ),
        least=-2,
        reading="On par is read as ahead by less than 2 points.",
    ),
    Claim(
        "Projecting on the span is far from end-to-end training.",
        "Sec. 4.4, Table 6 (against Tables 2 and 3)",
        leads({**END_TO_END, "data": "cifar10"}, {"guess": "local", "aux": AUX, "perturb": "activity_span"}),
        least=2,
        reading="Far is read as by more than 2 points.",
    ),
    Claim(
        "Local guesses gain from width.",
        "Sec. 4.5, Table 8 (with Table 2 for width 1)",
        leads({**LOCAL_GUESS, "data": "cifar10", "width": 4}, {"width": (0.5, 1, 2)}),
        reading="Width 4 against each smaller one.",
    ),
    Claim(
        "Random guesses lose from width.",
        "Sec. 4.5, Table 8 (with Table 2 for width 1)",
        leads({**RANDOM_GUESS, "data": "cifar10", "blocks": 16, "width": (0.5, 1, 2)}, {"width": 4}),
        reading="Width 4 against each smaller one.",
    ),
    Claim(
        "Local learning gains from width.",
        "App. B.1, Table 10 (with Table 4 for width 1)",
        leads(
            {**LOCAL_LEARNING, "blocks": 16, "width": 4},
            {"width": (0.5, 1, 2)},
        ),
        reading="The paper: tendencies similar to the global target's. Width 4 against each smaller one.",
    ),
    Claim(
        "Random guesses of the local target lose from width.",
        "App. B.1, Table 10 (with Table 4 for width 1)",
        leads(
            {**LOCAL_LEARNING, "guess": RANDOM, "blocks": 16, "width": (0.5, 1, 2)},
            {"width": 4},
        ),
        reading="The paper: tendencies similar to the global target's. Width 4 against each smaller one.",
    ),
    Claim(
        "Fixed NTK guesses are competitive with NTK guesses.",
        "App. B.2, Table 11 (against Tables 2 and 3)",
        leads({**GUESSES, "guess": "fixed_ntk", "data": "cifar10"}, {"guess": "ntk"}),
        least=-5,
        of="most",
        reading="Competitive is read as behind by less than 5 points, mostly.",
    ),
    Claim(
        "Local learning is strong with fixed auxiliary networks, too.",
        "App. B.2 (against Table 4)",
        leads(
            {"data": "cifar10", "target": "local", "guess": "fixed_ntk", "aux": AUX}, {"guess": "exact", "perturb": ""}
        ),
        least=-5,
        reading="Strong is read as behind local learning with trained ones by less than 5 points.",
    ),
    Claim(
        "Predsim is competitive with the deeper local losses with 8 blocks.",
        "App. B.2, Table 12 (against Tables 3 and 4)",
        (
            *leads({**LOCAL_LEARNING, "aux": "predsim", "blocks": 8}, {"aux": ("cnn", "mlp")}),
            *leads({**LOCAL_GUESS, "aux": "predsim", "blocks": 8}, {"aux": ("cnn", "mlp")}),
        ),
        least=-5,
        of="most",
        reading="Of local learning and local guesses. Competitive is read as behind by less than 5 points, mostly.",
    ),
)
