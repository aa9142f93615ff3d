"""The model card of an export, README.md: what the model is, what it was trained on and how, and
how well it does.
"""

from pathlib import Path

from windtunnel.data.shards import Corpus, Manifest
from windtunnel.model.shape import active_params, count
from windtunnel.plan.record import plans_of_run, read_plan
from windtunnel.quantities import about
from windtunnel.recipe import dump
from windtunnel.results.run import Score
from windtunnel.train.run import Run, context_of, lineage

_LOADED_BY = {
    "hf": "`transformers.AutoModelForCausalLM`, vLLM and llama.cpp's converter know this layout (Granite, GraniteMoe "
    "with experts) and apply its multipliers.",
    "minicpm": "The layout of the published MiniCPM models. vLLM and SGLang know it; transformers needs "
    "`configuration_minicpm.py` and `modeling_minicpm.py` of such a model beside it.",
    "llama": "A plain Llama, which every tool reads: the multipliers are folded into the weights. For inference only: "
    "to train on, take the `hf` layout.",
    "gguf": "For llama.cpp and what is built on it.",
}


def card(run: Run, layout: str, dtype: str, tokens: int, checked: str) -> str:
    """The text of README.md for a run's model at `tokens` tokens. `checked`: what an engine
    found.
    """
    line = lineage(run)
    parts = [
        _head(run, layout, dtype, tokens),
        _shape(run),
        _history(line, tokens),
        _data(line),
        _plan(run),
        _evaluation(run, tokens),
        f"## Checked\n\n{checked}",
        f"## Recipe\n\n```toml\n{dump(run.recipe).strip()}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(run: Run, layout: str, dtype: str, tokens: int) -> str:
    library = "gguf" if layout == "gguf" else "transformers"
    matter = (
        f"---\nlibrary_name: {library}\npipeline_tag: text-generation\ntags: [windtunnel, wsd]\n---"
    )
    size = about(count(run.recipe.model).params_total)
    return (
        f"{matter}\n\n# {run.recipe.name}\n\nA language model of {size} parameters, run `{run.id}` at {about(tokens)} "
        f"tokens, exported by windtunnel as `{layout}` in {dtype}. {_LOADED_BY[layout]}"
    )


def _shape(run: Run) -> str:
    model, counts = run.recipe.model, count(run.recipe.model)
    experts = {
        "experts": f"{model.experts}, of which each token goes through {model.experts_per_token}",
        "active parameters": f"{active_params(model):,} for a token, without embeddings",
    }
    rows = {
        "parameters": f"{counts.params:,} without embeddings, {counts.params_total:,} with them",
        **(experts if model.experts else {}),
        "width x depth": f"{model.width} x {model.depth}",
        "heads": f"{model.heads} of {model.head_size}, {model.kv_heads} for keys and values",
        "feed-forward": f"{model.ffn}, SwiGLU" + (" of each expert" if model.experts else ""),
        "vocabulary": f"{model.vocab:,}, {'tied' if model.tied else 'not tied'}",
        "context": f"{context_of(run):,} tokens, RoPE base {model.rope_base:g}",
        "parametrization": model.parametrization,
    }
    return "## Model\n\n" + _table(["", ""], [[key, value] for key, value in rows.items()])


def _history(line: list[Run], tokens: int) -> str:
    """The run and what it came from, oldest first."""
    steps = []
    for run, end in zip(line, [tokens, *(child.at_tokens or 0 for child in line)], strict=False):
        recipe, start = run.recipe, run.start
        if origin := run.origin:
            steps.append(
                f"- imported `{run.id}`, {recipe.name}: trained elsewhere; {origin.layout} layout, "
                f"weights `{origin.weights[:12]}`"
            )
        else:
            decayed = end - (recipe.total_tokens - recipe.decay_tokens)
            decay = f", decay over the last {about(decayed)}" if decayed > 0 else ""
            steps.append(
                f"- {run.kind} `{run.id}`, {recipe.name}: tokens {about(start)} to {about(end)}, batch "
                f"{about(recipe.train.batch)}, lr {recipe.optimizer.lr:g}{decay}"
            )
    return "## Training\n\n" + "\n".join(reversed(steps))


def _data(line: list[Run]) -> str:
    rows = []
    for name, manifest in _corpora(line).items():
        for source, entry in manifest.sources.items():
            rows.append(
                [
                    name,
                    source,
                    _public(entry.origin),
                    entry.licence or "not known",
                    "yes" if entry.synthetic else "no",
                    about(entry.train.tokens),
                ]
            )
    if not rows:
        return ""
    head = ["corpus", "source", "origin", "licence", "written by a model", "tokens"]
    return "## Data\n\nThe licences are those that the sources state.\n\n" + _table(head, rows)


def _corpora(line: list[Run]) -> dict[str, Manifest]:
    """Of each run's corpus that the lab still holds as the run read it."""
    found = {}
    for run in reversed(line):
        folder = run.lab / "corpora" / run.recipe.data.corpus
        if run.corpus and (folder / "manifest.json").exists():
            corpus = Corpus.open(folder)
            if corpus.digest == run.corpus:
                found[folder.name] = corpus.manifest
    return found


def _plan(run: Run) -> str:
    """What the plan said that the run was made from."""
    folders = plans_of_run(run.lab, run.id, run.corpus)
    if not folders:
        return ""
    plan = read_plan(folders[0])
    low, high = plan.interval90
    forms = ", ".join(f"{law.form} {law.weight:.0%}" for law in plan.law.candidates)
    return (
        f"## Plan\n\nPredicted before training: a loss of {plan.loss:.4f} nats/token, nine times "
        f"in ten between {low:.4f} and {high:.4f} (laws: {forms})."
    )


def _evaluation(run: Run, tokens: int) -> str:
    """The last validation that the run recorded up to the exported point."""
    recorded = [line for line in run.validations() if line.tokens <= tokens]
    if not recorded:
        return ""
    last = recorded[-1]
    named: dict[str, Score] = {**last.validation.sources, "all": last.validation}
    rows = [
        [name, f"{score.loss:.4f}", f"{score.bits_per_byte:.4f}", f"{score.tokens:,}"]
        for name, score in named.items()
    ]
    head = ["held-out text", "loss, nats/token", "bits/byte", "tokens"]
    return (
        f"## Evaluation\n\nAt {about(last.tokens)} tokens, in the training precision.\n\n"
        + _table(head, rows)
    )


def _public(where: str) -> str:
    """A person's own folder by its name alone: a card is shown to others."""
    return Path(where).name if "/" in where or "\\" in where else where


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
