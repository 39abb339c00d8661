"""Networks of language and texts, from the command line."""

import json

import pytest
from forked import train_py
from text_files import rows, write_csv, write_network, write_texts

QUICK = ("data.length=16", "aux=linear", "data.batch_size=20", "trainer.max_epochs=1", "logger.mode=disabled")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["reverse", "forward", "finite"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_every_engine_trains_them(kind, engine, tmp_path):
    folder = tmp_path / "here"
    write_network(folder / kind, kind)
    write_texts(folder / "reviews")
    chosen = ("model=transformers", f"model.path={kind}", "model.pretrained=false", "model.blocks=3")
    done = train_py(folder, *chosen, "data=text", "data.root=reviews", f"engine={engine}", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    (written,) = (folder / "outputs").glob("*/result.json")
    assert written.parent.name.endswith(f"_reviews-{kind}-global-local-linear-weight_seed0")
    assert json.loads(written.read_text())["steps"] == 2


def test_a_module_of_one_s_own_is_trained_on_a_file(tmp_path):
    folder = tmp_path / "here"
    write_network(folder / "words")
    write_csv(folder / "all.csv", rows(50))
    (folder / "mine.py").write_text(
        "from torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, width):\n"
        "        super().__init__()\n"
        "        self.words, self.middle = nn.Embedding(20, width), nn.Linear(width, width)\n"
        "        self.head = nn.Linear(width, num_classes)\n\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        hidden = self.middle(self.words(input_ids)).relu()\n"
        "        return self.head((hidden * attention_mask[..., None]).sum(1))\n"
    )
    chosen = ("model=any", "model._target_=mine.Net", "model.width=8", "model.cuts=[middle]", "measure=true")
    texts = ("data=text", "data.root=all.csv", "data.test=0.2", "data.tokenizer=words")
    done = train_py(folder, *chosen, *texts, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = (folder / "outputs").glob("*/result.json")
    assert json.loads(written.read_text())["steps"] == 2
