"""Texts: what files may hold, how they are split, and what batches have of them."""

from itertools import chain

import pytest
import torch
from text_files import VOCABULARY, rows, write_csv, write_jsonl, write_network, write_texts

from fglight.data import TextDataModule
from fglight.data.batches import batch_shares
from fglight.data.text_files import classes, load
from fglight.errors import ConfigError, DataError

LENGTH = 16


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("networks") / "bert")


def module(root, tokenizer, **settings):
    given = {"name": "texts", "num_classes": 2, "in_channels": 2, "image_size": LENGTH, "length": LENGTH}
    given |= {"root": root, "text": "text", "label": "label", "tokenizer": str(tokenizer), "batch_size": 8}
    made = TextDataModule(**given | settings)
    made.setup()
    return made


def read(batch):
    """A batch as words and classes, by the definition of ids and masks."""
    (ids, mask), labels = batch[0].unbind(1), batch[1]
    words = list(VOCABULARY)
    for row in mask:
        assert row.tolist() == sorted(row.tolist(), reverse=True)  # padding is behind the text
    texts = [" ".join(words[i] for i in row[kept > 0]) for row, kept in zip(ids, mask)]
    return list(zip(texts, [("bad", "good")[label] for label in labels]))


def test_batches_hold_the_texts_and_their_classes(network, tmp_path):
    data = module(write_texts(tmp_path), network)
    assert [*chain(*map(read, data.test_dataloader()))] == rows(12, 12)
    seen = [*chain(*map(read, data.train_dataloader()))]
    assert seen != rows(40, 40)
    assert sorted(seen) == sorted(rows(40, 40))


def test_a_batch_is_as_long_as_its_longest_text_in_multiples_of_eight(network, tmp_path):
    texts = ["it was", "the film " * 4, "a " * 9, "it " * 30, "poor plot", "fine"]
    found = [(text.strip(), label) for text, label in zip(texts, ["bad", "good"] * 3)]
    write_csv(tmp_path / "train.csv", found)
    write_csv(tmp_path / "test.csv", found)
    batches = list(module(tmp_path, network, batch_size=2).test_dataloader())
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(2, 2, 8), (2, 2, 16), (2, 2, 8)]
    assert batches[1][0][:, 1].sum(1).tolist() == [9, LENGTH]  # the longest is cut off
    assert all(inputs.dtype == torch.long for inputs, _ in batches)


def test_several_processes_have_batches_of_one_length(network, tmp_path, monkeypatch):
    data = module(write_texts(tmp_path), network, batch_size=5)
    whole = list(data.train_dataloader())
    for rank in range(2):
        monkeypatch.setattr(TextDataModule, "processes", {"processes": 2, "rank": rank})
        shares = batch_shares(40, 5, training=True, processes=2, rank=rank)
        for (inputs, labels), (every, _), (start, stop) in zip(data.train_dataloader(), whole, shares):
            assert len(labels) == stop - start
            assert torch.equal(inputs, every[start % 5 : start % 5 + stop - start])


def test_a_file_is_split_in_the_same_way_for_every_seed(network, tmp_path):
    path = write_csv(tmp_path / "all.csv", rows(40))
    parts = [module(path, network, test=0.25, seed=seed) for seed in (0, 1)]
    first, second = ([*chain(*map(read, part.test_dataloader()))] for part in parts)
    assert first == second
    assert [label for _, label in first].count("bad") == 5
    assert sorted([*first, *[*chain(*map(read, parts[0].train_dataloader()))]]) == sorted(rows(40))
    few = module(path, network, test=0.25, train_images=12, holdout=0.5)
    assert len(few.train_dataloader().images) == len(few.test_dataloader().images) == 6


def test_classes_are_in_the_order_of_numbers_or_of_names(tmp_path):
    assert classes(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert classes(["10", "9", "b"]) == ["10", "9", "b"]
    path = write_jsonl(tmp_path / "some.jsonl", [{"s": "x", "y": 3}, {"s": "y", "y": True}, {"s": "z", "y": "c"}])
    assert load(path, "s", "y", 0.5) == ((["x", "y", "z"], ["3", "True", "c"]), None)


def test_lines_within_quotes_and_marks_of_bytes_are_read(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes('\ufefflabel,text\r\nb,"two\nlines, ""quoted"""\r\n'.encode())
    assert load(path, "text", "label", 0.5)[0] == (['two\nlines, "quoted"'], ["b"])


CSV = "text,label\n"
REFUSED = {
    "one.csv": [
        (CSV, r"one\.csv has no rows"),
        ("words,label\na,b\n", r"data\.text must be a column of .*one\.csv, words, label, got text \(row 1\)"),
        ("text,class\na,b\n", r"data\.label must be a column of .*got label"),
        (CSV + "a,b\n  ,b\n", r"one\.csv, row 2: text must be a text, got"),
        (CSV + "a,b\na\n", r"one\.csv, row 2: label must be a label, got nothing"),
        (CSV + 'a,b\n"a', r"one\.csv is damaged, behind row 1 \(unexpected end of data\)"),
        (CSV + "\udcff,b\n", r"one\.csv is damaged, behind row 0 \('utf-8' codec"),
    ],
    "one.jsonl": [
        ('{"text": "a", "label": 1}\n{"text"', r"one\.jsonl is damaged, behind row 1 \("),
        ("[1]\n", r"one\.jsonl is damaged, behind row 0 \(a line must be a JSON object, got \[1\]\)"),
        ('{"text": "a", "label": [1]}\n', r"one\.jsonl, row 1: label must be a label, got \[1\]"),
        ('{"text": null, "label": 1}\n', r"one\.jsonl, row 1: text must be a text, got nothing"),
    ],
    "one.txt": [("a\n", r"data\.root must be a \.csv or \.jsonl file, .*got .*one\.txt")],
}


@pytest.mark.parametrize(("name", "content", "said"), [(n, *case) for n in REFUSED for case in REFUSED[n]])
def test_files_that_cannot_be_used_are_told_in_one_line(name, content, said, tmp_path):
    (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match=said) as refused:
        load(tmp_path / name, "text", "label", 0.5)
    assert "\n" not in str(refused.value)


def test_folders_that_do_not_fit_are_told(tmp_path):
    write_csv(tmp_path / "one.csv", rows(4))
    with pytest.raises(DataError, match=r"data\.test must be the part of .*one\.csv .*as in data\.test=0\.2, got null"):
        load(tmp_path / "one.csv", "text", "label", None)
    with pytest.raises(DataError, match=r"data\.root must be .* got .* without train\.csv"):
        load(tmp_path, "text", "label", None)
    write_csv(tmp_path / "train.csv", rows(4))
    with pytest.raises(DataError, match=r"data\.root must be .* got .* without test\.csv"):
        load(tmp_path, "text", "label", None)
    with pytest.raises(DataError, match=r"data\.test must be null .* got 0\.2"):
        load(tmp_path, "text", "label", 0.2)
    write_csv(tmp_path / "test.csv", [*rows(2), ("fine", "mixed")])
    with pytest.raises(DataError, match=r"test\.csv, row 3: label must be one of training's, bad, good, got mixed"):
        load(tmp_path, "text", "label", None)


def test_settings_that_do_not_fit_the_texts_are_told(network, tmp_path):
    write_texts(tmp_path / "texts")
    with pytest.raises(ConfigError, match=r"data\.num_classes must be 2, as in texts, got 3"):
        module(tmp_path / "texts", network, num_classes=3)
    path = write_csv(tmp_path / "one.csv", rows(4))
    with pytest.raises(ConfigError, match=r"data\.test must be a fraction that .* got 0\.1"):
        module(path, network, test=0.1)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text((network / "config.json").read_text())
    with pytest.raises(
        DataError, match=r"data\.tokenizer must be a folder with a tokenizer, got .*bare, which has none"
    ):
        module(tmp_path / "texts", tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"data\.tokenizer \(by itself model\.path\) must be a folder .*got \./gone"):
        module(tmp_path / "texts", "./gone")
