"""The help shows files with their comments and the values that settings have."""

import pytest

from fglight import train


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        train.main([*arguments, "--help"])
    assert not left.value.code
    return capsys.readouterr().out


def test_comments_stand_beside_values(capsys):
    text = shown(capsys, "optim.lr=0.3", "guess=gaussian")
    assert "\noptim:  # optim=sgd\n" in text
    assert "\n  lr: 0.3\n" in text
    assert "\n  width: 1.0               # factor on every channel count\n" in text
    assert "\n  max_epochs: 10\n" in text  # the paper's for this cell
    assert "\nclip_norm: null          # the largest total norm" in text
    assert "  # guess=gaussian\n" in text
    assert "${recipe:lr}" not in text
    assert "uses_auxiliaries" not in text  # what a file says of its component, and no setting


def test_a_file_of_one_s_own_comes_first(capsys, tmp_path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim/sgd.yaml").write_text("# Mine.\n_target_: torch.optim.SGD\nname: sgd\nlr: 0.7  # higher\n")
    text = shown(capsys, "--config-dir", str(tmp_path))
    assert "  # Mine.\n" in text
    assert "  lr: 0.7  # higher\n" in text
