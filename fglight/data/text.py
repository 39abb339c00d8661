"""Texts and their classes, as token ids on the training device."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fglight.data.batches import Batches
from fglight.data.in_memory import InMemoryDataModule, Samples
from fglight.data.splits import holdout_split
from fglight.data.text_files import Texts, classes, load
from fglight.errors import DataError
from fglight.hub import from_pretrained, quiet

MULTIPLE = 8
"""The lengths of batches are multiples of it, which suit GPUs, and which are few."""


class TextBatches(Batches):
    """Batches of token ids and masks, each as long as its longest text asks for, on all processes."""

    def taken(self, chosen: slice | Tensor, whole: slice | Tensor) -> Tensor:
        """See ``Batches``; int64, (texts, 2, length)."""
        longest = int(self.images[whole, 1].sum(1).max())
        return self.images[chosen, :, : longest + -longest % MULTIPLE].long()


class TextFiles:
    """Files of texts as a source of ``InMemoryDataModule``.

    Args:
        text: the column with the text.
        label: the column with its class.
        tokenizer: a folder of transformers', or a name on the Hugging Face hub.
        length: how many tokens of a text count, at most.
        test: the part of a single file that is for testing, the same for every seed.
    """

    def __init__(self, text: str, label: str, tokenizer: str, length: int, test: float | None) -> None:
        self.columns = (text, label)
        self.tokenizer = tokenizer
        self.length = length
        self.test = test

    def read(self, root: Path) -> tuple[Texts, Texts | None]:
        """See ``fglight.data.text_files``."""
        return load(root, *self.columns, self.test)

    def load(self, root: Path) -> tuple[Samples, Samples]:
        """The training and the test texts: int32, (texts, 2, length), ids and masks; int64, (texts,), classes.

        Raises:
            DataError: a file cannot be read, or a text has no tokens.
            ConfigError: there is no such tokenizer, or a part of the file would be without some class.
        """
        train, testing = self.read(root)
        numbers = {name: number for number, name in enumerate(classes(train.labels))}
        first, *rest = (self._samples(texts, numbers) for texts in (train, testing) if texts is not None)
        if rest:
            return first, rest[0]
        kept, tested = map(first.part, holdout_split(first.labels, self.test, "test"))
        return kept, tested

    def _samples(self, texts: Texts, numbers: dict[str, int]) -> Samples:
        tokenizer = from_pretrained("data.tokenizer (by itself model.path)", self.tokenizer, "AutoTokenizer")
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without one
            raise DataError(f"data.tokenizer must be a folder with a tokenizer, got {self.tokenizer}, which has none")
        with quiet():
            found = tokenizer(list(texts.texts), truncation=True, max_length=self.length)["input_ids"]
        for ids, text in zip(found, texts.texts):
            if not ids:
                raise DataError(f"a text must have a token by data.tokenizer={self.tokenizer}, got {text[:40]!r}")
        rows = [torch.tensor(ids, dtype=torch.int32) for ids in found]
        rows.append(torch.zeros(self.length, dtype=torch.int32))  # so that all have this length
        padding = tokenizer.pad_token_id or 0
        ids = pad_sequence(rows, batch_first=True, padding_value=padding)[:-1]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)[:-1]
        labels = torch.tensor([numbers[name] for name in texts.labels])
        return Samples(torch.stack([ids, mask], 1), labels)


class TextDataModule(InMemoryDataModule):
    """Texts as one tensor on the training device.

    Args:
        text: the column with the text.
        label: the column with its class, a name or a number; classes are numbered in order.
        tokenizer: a folder of transformers', or a name on the Hugging Face hub, which is downloaded.
        length: how many tokens of a text count, at most; the others are left out at its end.
        test: the part of a single file that is for testing, stratified and the same for every seed; None where
            ``root`` is a folder with ``train.csv`` and ``test.csv``.
        **settings: the settings of ``DataModule`` but for those of images. ``root`` is the file or the folder.

    Raises:
        ConfigError: a setting is out of range or does not fit the texts.
        DataError: a file is missing, damaged, or lacks what the settings say.
    """

    def __init__(
        self, *, text: str, label: str, tokenizer: str, length: int, test: float | None = None, **settings: Any
    ) -> None:
        source = TextFiles(text, label, tokenizer, length, test)
        train, _ = source.read(Path(settings["root"]).expanduser())
        facts = {"num_classes": len(classes(train.labels)), "in_channels": 2, "image_size": length}
        channels = settings["in_channels"]
        settings |= {"augment": False, "mean": [0.0] * channels, "std": [1.0] * channels}
        super().__init__(source=source, facts=facts, **settings)

    def batches(self, samples: Samples, kind: type[Batches] = TextBatches, **settings: Any) -> Batches:
        """See ``InMemoryDataModule``."""
        return super().batches(samples, kind, **settings)
