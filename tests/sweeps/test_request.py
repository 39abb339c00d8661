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
        (["table=1"], ["table=1", "2 to 12"]),
        (["table=3,13"], ["table=13", "2 to 12"]),
        (["table=three"], ["table=three", "2 to 12"]),
        (["figure=1"], ["figure=1", "2 to 9"]),
        (["search=depth"], ["search=depth", "lr, aux_size"]),
        (["search=lr"], ["search=lr", "table="]),
        (["table=3", "controls=maybe"], ["controls=maybe", "accepted is true or false"]),
        (["table=3", "controls=true,false"], ["controls=True,False", "accepted is true or false"]),
        (["table=3", "plan=maybe"], ["plan=maybe", "accepted is true or false"]),
        (["guess=local,ntk", "plan=maybe"], ["plan=maybe", "accepted is true or false"]),
        (["controls=true"], ["controls=true belongs to a sweep of tables", "add table=... or figure=..."]),
        (["guess=local,ntk", "blocks=8"], ["blocks=8", "add table=..., figure=... or study=..."]),
        (["guess=local,ntk", "seeds=2"], ["seeds=2", "table=..., figure=... or study=...", "seed=0,1"]),
        (["search=aux_size", "table=3"], ["search=aux_size"]),
        (["table=3", "seeds=0"], ["seeds=0", "1 on"]),
        (["table=3", "seeds=many"], ["seeds=many", "1 on"]),
        (["table=3", "seeds=2", "seed=1"], ["seed", "seeds"]),
        (["table=3", "guess=fixed_ntk"], ["Table 3", "guess=fixed_ntk", "exact, gaussian, local, ntk, rademacher"]),
        (["table=3", "guess=exact", "aux=cnn"], ["guess=exact and aux=cnn"]),
        (["table=3", "blocks=4"], ["blocks=4", "accepted is blocks=8"]),
        (["table=3", "model.width=0"], ["model.width=0"]),
        (["table=3", "trainer.max_epochs=few"], ["trainer.max_epochs=few"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, words):
    with pytest.raises(ConfigError) as error:
        plan(*overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
