"""Small networks of language, their tokenizer, and texts that can be told apart, made by the tests."""

import csv
import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast

from fglight.hub import quiet

WORDS = {"bad": ("awful", "poor", "sad"), "good": ("fine", "great", "nice")}
OTHERS = ("a", "film", "it", "plot", "the", "was")
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS["bad"], *WORDS["good"], *OTHERS])}
POSITIONS = 128


def write_network(folder: Path, kind: str = "bert") -> Path:
    """A folder with a configuration, and a tokenizer of single words; GPT-2's has no padding, as the published one."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    padding = {"pad_token": "[PAD]"} if kind == "bert" else {}
    size = len(VOCABULARY)
    with quiet():
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **padding).save_pretrained(folder)
        if kind == "bert":
            sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
            config = BertConfig(vocab_size=size, max_position_embeddings=POSITIONS, **sizes)
        else:
            config = GPT2Config(vocab_size=size, n_embd=8, n_layer=3, n_head=2, n_positions=POSITIONS)
        config.save_pretrained(folder)
    return folder


def rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 1 to 12 words with their classes."""
    draw, found = random.Random(seed), []
    for place in range(count):
        label = ("bad", "good")[place % 2]
        words = draw.choices([*WORDS[label], *OTHERS], k=draw.randint(1, 12))
        found.append((" ".join(words), label))
    return found


def write_csv(path: Path, found: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *found])
    return path


def write_jsonl(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_texts(folder: Path) -> Path:
    """A folder with files of training and of testing."""
    for name, count in (("train", 40), ("test", 12)):
        write_csv(folder / f"{name}.csv", rows(count, count))
    return folder
