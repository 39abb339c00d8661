"""A set of texts that a Debian system has: what packages say of themselves in a line, with their section as the label.

python benchmarks/debian_sections.py FOLDER          # FOLDER/train.csv and FOLDER/test.csv, from apt-cache dumpavail
"""

import argparse
import csv
import random
import subprocess
from collections import defaultdict
from pathlib import Path

SECTIONS = ("admin", "games", "graphics", "mail", "math", "net", "science", "sound", "text", "web")
TRAIN, TEST = 200, 60


def descriptions() -> dict[str, list[str]]:
    """The short descriptions of each section's packages, each once, in an order that is the same on every machine."""
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    found = defaultdict(set)
    for package in listed.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in package.splitlines() if ": " in line and line[0] != " ")
        found[fields.get("Section", "")].add(fields.get("Description", ""))
    once = {text for texts in found.values() for text in texts if sum(text in other for other in found.values()) == 1}
    chosen = {section: sorted(found[section] & once) for section in SECTIONS}
    for texts in chosen.values():
        random.Random(0).shuffle(texts)
    return chosen


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    chosen = descriptions()
    for name, start, end in (("train", 0, TRAIN), ("test", TRAIN, TRAIN + TEST)):
        rows = [(text, section) for section, texts in chosen.items() for text in texts[start:end]]
        random.Random(1).shuffle(rows)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        print(f"{folder / name}.csv: {len(rows)} texts")


if __name__ == "__main__":
    main()
