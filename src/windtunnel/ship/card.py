"""The model card of an export, README.md: what the model is, what it was trained on and how, and
how well it does.
"""

from collections.abc import Sequence
from pathlib import Path

from windtunnel.data.shards import Manifest
from windtunnel.model.shape import active_params, count
from windtunnel.plan.record import plans_of_run, read_plan
from windtunnel.quantities import about
from windtunnel.recipe import Model, dump
from windtunnel.results.evaluation import (
    how_in_words,
    metric_in_words,
    read_evaluations,
    score_in_words,
)
from windtunnel.results.export import Agreement
from windtunnel.results.run import Score
from windtunnel.ship.layouts import Layout
from windtunnel.ship.subject import Subject
from windtunnel.train.run import Run


def card(subject: Subject, layout: Layout, dtype: str, agreement: Agreement) -> str:
    """The text of README.md for a model that was exported in this layout, its numbers in `dtype`.
    `agreement`: what the check found.
    """
    parts = [
        _head(subject, layout, dtype),
        _shape(subject),
        _history(subject),
        _data(subject),
        _plan(subject.run),
        _evaluation(subject),
        _tasks(subject),
        f"## Check\n\n{agreement}.",
        f"## Recipe\n\n```toml\n{dump(subject.run.recipe).strip()}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(subject: Subject, layout: Layout, dtype: str) -> str:
    """The front matter that model hubs read, the title, and what this is."""
    recipe = subject.run.recipe
    size = about(count(recipe.model).params_total)
    lines = [
        "---",
        f"library_name: {layout.library}",
        "pipeline_tag: text-generation",
        "tags: [windtunnel, wsd]",
        "---",
        "",
        f"# {recipe.name}",
        "",
        f"A language model of {size} parameters: run `{subject.run.id}` at {about(subject.tokens)} "
        f"tokens, exported by windtunnel as `{layout.name}` in {dtype}. {layout.read_by}",
    ]
    return "\n".join(lines)


def _shape(subject: Subject) -> str:
    model = subject.portable.model
    counts = count(model)
    rows = [
        ["parameters", f"{counts.params:,} without embeddings, {counts.params_total:,} with them"]
    ]
    feed_forward = f"{model.ffn}, SwiGLU"
    if model.experts:
        each = f"{model.experts}, of which each token goes through {model.experts_per_token}"
        active = f"{active_params(model):,} for a token, without embeddings"
        rows += [["experts", each], ["active parameters", active]]
        feed_forward += " of each expert"
    tied = "tied" if model.tied else "not tied"
    rows += [
        ["width x depth", f"{model.width} x {model.depth}"],
        ["heads", f"{model.heads} of {model.head_size}, {model.kv_heads} for keys and values"],
        ["feed-forward", feed_forward],
        ["vocabulary", f"{model.vocab:,}, {tied}"],
        ["context", f"{subject.portable.context:,} tokens, RoPE {_rope(model)}"],
        ["parametrization", model.parametrization],
    ]
    return "## Model\n\n" + _table(["", ""], rows)


def _rope(model: Model) -> str:
    """Its base, and how it is scaled."""
    base = f"base {model.rope_base:g}"
    if model.rope_scaling == "none":
        return base
    return f"{base}, scaled by {model.rope_scaling}, factor {model.rope_factor:g}"


def _history(subject: Subject) -> str:
    """The run and what it came from, oldest first."""
    line = subject.lineage
    ends = [subject.tokens, *(child.at_tokens or 0 for child in line[:-1])]
    steps = [_step(run, end) for run, end in zip(line, ends, strict=True)]
    return "## Training\n\n" + "\n".join(reversed(steps))


def _step(run: Run, end: int) -> str:
    """One run of the line, as far as `end` tokens."""
    recipe = run.recipe
    if run.origin:
        return (
            f"- imported `{run.id}`, {recipe.name}: trained elsewhere; {run.origin.layout} layout, "
            f"weights `{run.origin.weights[:12]}`"
        )
    # how far `end` is into the decay: a checkpoint may be before it, or in it
    decayed = end - (recipe.total_tokens - recipe.decay_tokens)
    decay = f", decay over the last {about(decayed)}" if decayed > 0 else ""
    return (
        f"- {run.kind} `{run.id}`, {recipe.name}: tokens {about(run.start)} to {about(end)}, batch "
        f"{about(recipe.train.batch)}, lr {recipe.optimizer.lr:g}{decay}"
    )


def _data(subject: Subject) -> str:
    rows = []
    for name, manifest in _manifests(subject).items():
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


def _manifests(subject: Subject) -> dict[str, Manifest]:
    """By corpus, oldest first."""
    found = {}
    for run in reversed(subject.lineage):
        corpus = subject.corpora.get(run.id)
        # A corpus that was built again under its name is another one, and says nothing of this run.
        if corpus and corpus.digest == run.corpus:
            found[corpus.folder.name] = corpus.manifest
    return found


def _plan(run: Run) -> str:
    """What the plan said that the run was made from."""
    folders = plans_of_run(run.lab, run.present_id, run.corpus)
    if not folders:
        return ""
    plan = read_plan(folders[0])
    low, high = plan.interval90
    forms = ", ".join(f"{law.form} {law.weight:.0%}" for law in plan.law.candidates)
    return (
        f"## Plan\n\nPredicted before training: a loss of {plan.loss:.4f} nats/token, nine times "
        f"in ten between {low:.4f} and {high:.4f} (laws: {forms})."
    )


def _evaluation(subject: Subject) -> str:
    """The last validation that the run recorded up to the exported point."""
    recorded = [line for line in subject.run.validations() if line.tokens <= subject.tokens]
    if not recorded:
        return ""
    last = recorded[-1]
    # the overall score comes last, as a total does
    named: dict[str, Score] = {**last.validation.sources, "all": last.validation}
    rows = [
        [name, f"{score.loss:.4f}", f"{score.bits_per_byte:.4f}", f"{score.tokens:,}"]
        for name, score in named.items()
    ]
    head = ["held-out text", "loss, nats/token", "bits/byte", "tokens"]
    at = f"At {about(last.tokens)} tokens, in the precision of the training."
    said = f"## Evaluation\n\n{at}\n\n"
    return said + _table(head, rows)


def _tasks(subject: Subject) -> str:
    """What `evaluate` found of the exported checkpoint."""
    rows = []
    for one in read_evaluations(subject.run.path, subject.tokens):
        for measure in one.measures:
            how, score = how_in_words(one), score_in_words(measure)
            rows.append([one.task, how, metric_in_words(measure), score, str(len(one.items) or "")])
    if not rows:
        return ""
    head = ["task", "asked", "metric", "score", "items"]
    said = "By windtunnel, with tasks of lm-eval; ± is a standard error over the items."
    return f"## Tasks\n\n{said}\n\n" + _table(head, rows)


def _public(where: str) -> str:
    """A person's own folder by its name alone, because a card is shown to others."""
    return Path(where).name if "/" in where or "\\" in where else where


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = []
    for cells in (head, ["---"] * len(head), *rows):
        escaped = [cell.replace("|", "\\|") for cell in cells]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines)
