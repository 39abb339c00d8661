"""What a command line asks of a sweep, and what cannot be."""

import pytest
from planned import plan, request

from fglight.errors import ConfigError


def test_without_table_figure_or_search_it_is_an_ordinary_sweep():
    assert request("guess=local,ntk", "seed=0,1") is None
    assert request("table=null", "guess=local", "controls=false", "seeds=null", "plan=true") is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["table=1"], ["table must be 2 or 3 or", "or 12 (several with commas), or all, got 1"]),
        (["table=3,13"], ["table must be 2 or", "got 13"]),
        (["table=three"], ["table must be 2 or", "got three"]),
        (["figure=1"], ["figure must be 2 or", "got 1"]),
        (["search=depth"], ["search must be lr or aux_size, got depth"]),
        (["search=lr"], ["search=lr", "table="]),
        (["table=3", "controls=maybe"], ["controls must be true or false, got maybe"]),
        (["table=3", "controls=true,false"], ["controls must be true or false, got true,false"]),
        (["table=3", "plan=maybe"], ["plan must be true or false, got maybe"]),
        (["guess=local,ntk", "plan=maybe"], ["plan must be true or false, got maybe"]),
        (["controls=true"], ["controls=true belongs to a sweep of tables", "add table=... or figure=..."]),
        (["guess=local,ntk", "blocks=8"], ["blocks=8", "add table=..., figure=... or study=..."]),
        (["guess=local,ntk", "seeds=2"], ["seeds=2", "table=..., figure=... or study=...", "seed=0,1"]),
        (["search=aux_size", "table=3"], ["search=aux_size"]),
        (["table=3", "seeds=0"], ["seeds must be a whole number from 1 on, got 0"]),
        (["table=3", "seeds=many"], ["seeds must be a whole number from 1 on, got many"]),
        (["table=3", "seeds=2", "seed=1"], ["seed", "seeds"]),
        (
            ["table=3", "guess=fixed_ntk"],
            ["Table 3", "guess=fixed_ntk", "guess must be exact or gaussian or local or ntk or rademacher"],
        ),
        (["table=3", "guess=exact", "aux=cnn"], ["guess=exact and aux=cnn"]),
        (["table=3", "blocks=4"], ["blocks=4", "blocks must be 8"]),
        (["table=3", "model.width=0"], ["model.width must be a number above 0, got 0"]),
        (["table=3", "trainer.max_epochs=few"], ["trainer.max_epochs must be a number above 0, got few"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError) as error:
        plan(*overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
