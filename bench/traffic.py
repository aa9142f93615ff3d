"""What does a step of the 2.4B send on 64 GPUs, 8 machines of 8, with the model whole on each
machine and with one copy over all of them? By paper: nothing is run.

    .venv/bin/python bench/traffic.py

Where the model is there once, whatever is gathered or scattered goes over the network, too. Prints
a table and, last, one JSON list.
"""

from pathlib import Path

from claims import Claim, arguments, claim, header, last_line, row

from windtunnel.model.traffic import traffic
from windtunnel.recipe import load

RECIPE = Path(__file__).parent.parent / "recipes" / "minicpm-2.4b.toml"
MACHINES, RANKS = 8, 8
STEP = 3_932_160  # tokens


def main() -> None:
    """Both ways, with many and with few tokens at once."""
    arguments(__doc__).parse_args()
    model = load(RECIPE).model
    claims: list[Claim] = []
    print(header("tokens at once", "way", "a GPU receives within", "a machine over the network"))
    for at_once in (20_480, 4_096):
        parts = STEP // (MACHINES * RANKS * at_once)
        whole = traffic(model, parts, RANKS, MACHINES)
        # every rank of all machines then takes part in every gathering
        each = traffic(model, parts, RANKS * MACHINES).within / (1 - 1 / (RANKS * MACHINES))
        once = (each * (RANKS - 1) / (RANKS * MACHINES), each * (MACHINES - 1) / MACHINES)
        ways = {"a copy on each machine": (whole.within, whole.between), "one copy": once}
        for way, (within, between) in ways.items():
            print(row(f"{at_once:,}", way, f"{within / 1e9:.1f} GB", f"{between / 1e9:.1f} GB"))
            what = f"{way}, {at_once} tokens at once: over the network"
            claims.append(claim(what, round(between / 1e9, 1), "GB"))
    last_line(claims)


if __name__ == "__main__":
    main()
