"""FLOPs of local losses as shares of their blocks', as the table of ``docs/auxiliaries.md`` has them.

python benchmarks/auxiliaries.py    # prints the table's rows
"""

from fglight import load_config
from fglight.sweeps.size import flops

FORMS = (
    "aux=cnn",
    "aux=mlp",
    "aux=linear",
    "aux=several",
    "aux=several aux.scale=0.5",
    "aux=predsim",
    "aux=predsim aux.full_conv=false",
)


def row(form: str) -> str:
    """The shares in the first block, in the last one with a local loss, the largest, and in all of these together."""
    shares = []
    for model in ("resnet18_8", "resnet18_16"):
        counted = flops(load_config(["data=cifar10", f"model={model}", *form.split()]))
        bodies, auxiliaries = map(sum, zip(*counted))
        of_blocks = [aux / body for body, aux in counted]
        shares += [of_blocks[0], of_blocks[-1], max(of_blocks), auxiliaries / bodies]
    return f"| `{form}` | {' | '.join(f'{share:.2%}' for share in shares)} |"


if __name__ == "__main__":
    for form in FORMS:
        print(row(form))
