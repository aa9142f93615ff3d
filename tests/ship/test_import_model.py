"""Models from elsewhere: the published MiniCPM layout, Llama's, Granite's and GGUF become stems
that compute the same and that train.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ship_models import logits_of, model_of, portable_of, reference, some_tokens, weights_of
from torch import Tensor

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.family import upcycle
from windtunnel.model.roles import Multipliers
from windtunnel.recipe import Model, dump
from windtunnel.report.page import write_page
from windtunnel.results.run import RunStatus
from windtunnel.ship.import_model import brought_configs, import_model
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, create, find_run, list_runs, open_run

# config.json as published, at a sixteenth of the width: MiniCPM-2B, -1B, -2B-128k and -MoE-8x2B
# (paper.md 10.1). What is not there is not there: rope_theta and the tie are the class's
# defaults.
COMMON = {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 16,
    "vocab_size": 330,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 4096,
    "transformers_version": "4.36.0",
    "auto_map": {"AutoConfig": "configuration_minicpm.MiniCPMConfig"},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "2B": COMMON
    | {
        "hidden_size": 144,
        "intermediate_size": 360,
        "num_hidden_layers": 5,
        "num_attention_heads": 9,
        "num_key_value_heads": 9,
    },
    "1B": COMMON
    | {
        "hidden_size": 96,
        "intermediate_size": 240,
        "num_hidden_layers": 7,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "2B-128k": COMMON
    | {
        "hidden_size": 144,
        "intermediate_size": 360,
        "num_hidden_layers": 5,
        "num_attention_heads": 9,
        "num_key_value_heads": 9,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
        "max_position_embeddings": 65536,
        "tie_word_embeddings": False,
    },
    "MoE-8x2B": COMMON
    | {
        "hidden_size": 144,
        "intermediate_size": 360,
        "num_hidden_layers": 5,
        "num_attention_heads": 9,
        "num_key_value_heads": 9,
        "rope_theta": 10000.0,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
}


def _tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights by the published names, bf16."""
    d, ffn, heads = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_attention_heads"],
    )
    kv, experts = d // heads * config["num_key_value_heads"], config.get("num_experts", 0)
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, d),
        "input_layernorm": (d,),
        "post_attention_layernorm": (d,),
    }
    if experts:
        layer["mlp.gate"] = (experts, d)
        each = {"w1": (ffn, d), "w2": (d, ffn), "w3": (ffn, d)}
        layer |= {
            f"mlp.experts.{e}.{name}": shape for e in range(experts) for name, shape in each.items()
        }
    else:
        layer |= {"mlp.gate_proj": (ffn, d), "mlp.up_proj": (ffn, d), "mlp.down_proj": (d, ffn)}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (config["vocab_size"], d),
        "model.norm": (d,),
    }
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head"] = (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator)
        return (
            1 + 0.2 * values if len(shape) == 1 else config["initializer_range"] * values
        ).bfloat16()

    return {f"{name}.weight": random(shape) for name, shape in shapes.items()}


def _published_logits(config: dict[str, Any], tensors: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The published formula (paper.md 10.3), fp64, by the published names."""
    names = {
        "self_attn.q_proj": "query",
        "self_attn.k_proj": "key",
        "self_attn.v_proj": "value",
        "self_attn.o_proj": "output",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "down",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.norm": "norm",
        "model.embed_tokens": "embedding",
        "lm_head": "head",
        "mlp.gate": "router",
    }
    experts = config.get("num_experts", 0)
    stacked = {
        f"model.layers.{i}.{ours}": torch.stack(
            [tensors[f"model.layers.{i}.mlp.experts.{e}.{w}.weight"] for e in range(experts)]
        )
        for i in range(config["num_hidden_layers"] if experts else 0)
        for w, ours in (("w1", "gate"), ("w3", "up"), ("w2", "down"))
    }
    tensors = {
        name: tensor for name, tensor in tensors.items() if ".experts." not in name
    } | stacked
    names |= {"gate": "gate", "up": "up", "down": "down"}
    weights = {}
    for name, tensor in tensors.items():
        short = name.removesuffix(".weight")
        index, _, leaf = (
            short.removeprefix("model.layers.").partition(".")
            if ".layers." in short
            else ("", "", short)
        )
        weights[f"layers.{index}.{names[leaf]}" if index else names[leaf]] = tensor.double()
    d, layers, heads = (
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
    )
    m = Multipliers(
        embedding=config["scale_emb"],
        residual=config["scale_depth"] / math.sqrt(layers),
        attention=1 / math.sqrt(d // heads),
        logits=1 / (d / config["dim_model_base"]),
    )
    shape = Model(
        width=d,
        depth=layers,
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        vocab=config["vocab_size"],
        tied=config.get("tie_word_embeddings", True),
        rope_base=config.get("rope_theta", 10_000.0),
        norm_eps=config["rms_norm_eps"],
        experts=experts,
        experts_per_token=config.get("num_experts_per_tok", 2),
    )
    return reference(shape, weights, m, tokens)


def _folder(
    place: Path, corpus: Corpus, config: dict[str, Any], tensors: dict[str, Tensor]
) -> Path:
    """As a hub has it: two shards, the caches of old versions among them."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    corpus.tokenizer.save(place / "tokenizer.json")
    (place / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<|end|>"}, "bos_token": None})
    )
    caches = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    names = [*tensors]
    shards = [names[: len(names) // 2], names[len(names) // 2 :]]
    index = {"metadata": {}, "weight_map": {}}
    for number, part in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        held = {name: tensors[name] for name in part} | (caches if number == 1 else {})
        save_file(held, place / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(held, file)
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


def _run_logits(run: Run, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return load_model(run).logits(tokens)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_minicpm_computes_the_published_formula(
    name: str, tmp_path: Path, corpus: Corpus
) -> None:
    config = PUBLISHED[name]
    tensors, tokens = _tensors(config), some_tokens()
    run = import_model(_folder(tmp_path / "MiniCPM", corpus, config, tensors), tmp_path / "lab")
    expected = _published_logits(config, tensors, tokens)
    assert expected.std() > 0.1
    assert (_run_logits(run, tokens) - expected).abs().max() < 1e-5
    model = run.recipe.model
    assert (model.scale_emb, model.scale_depth, model.base_width) == (12.0, 1.4, 16)
    assert (run.recipe.name, run.recipe.data.context) == (
        "MiniCPM",
        config["max_position_embeddings"],
    )
    assert (model.parametrization, model.init_std, model.vocab) == ("minicpm", 0.1, 330)


@pytest.mark.parametrize(
    "shape",
    [
        "tied",
        "grouped",
        "odd width",
        "completep",
        "standard",
        "untied",
        "experts",
        "standard experts",
    ],
)
def test_our_minicpm_export_is_the_published_formula(
    shape: str, tmp_path: Path, corpus: Corpus
) -> None:
    model = model_of(shape)
    weights, tokens = weights_of(model), some_tokens()
    LAYOUTS["minicpm"].write(tmp_path, portable_of(model, weights, corpus.tokenizer), "fp32")
    config = json.loads((tmp_path / "config.json").read_text())
    ignored = {"auto_map", "transformers_version"}
    assert set(COMMON) - ignored <= set(config) and config["model_type"] == "minicpm"
    expected = _published_logits(config, load_file(tmp_path / "model.safetensors"), tokens)
    assert (logits_of(model, weights, tokens) - expected).abs().max() < 1e-4


class TestTransformers:
    """Checkpoints that transformers itself wrote."""

    @pytest.fixture
    def saved(self, tmp_path: Path, corpus: Corpus) -> Callable[..., tuple[Path, Tensor]]:
        transformers = pytest.importorskip("transformers")

        def save(kind: str, **settings: Any) -> tuple[Path, Tensor]:
            torch.manual_seed(0)
            common = {
                "vocab_size": 320,
                "hidden_size": 64,
                "intermediate_size": 172,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 128,
                "initializer_range": 0.2,
                "eos_token_id": 0,
            }
            config = getattr(transformers, f"{kind}Config")(**common | settings)
            model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
            model.save_pretrained(tmp_path / kind)
            corpus.tokenizer.save(tmp_path / kind / "tokenizer.json")
            with torch.no_grad():
                return tmp_path / kind, model(some_tokens()).logits

        return save

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-5},
            {
                "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
            },
        ],
    )
    def test_llama(
        self, settings: dict[str, Any], saved: Callable[..., Any], tmp_path: Path
    ) -> None:
        folder, expected = saved("Llama", **settings)
        run = import_model(folder, tmp_path / "lab")
        assert (_run_logits(run, some_tokens()) - expected).abs().max() < 1e-4
        assert run.recipe.model.parametrization == "standard"
        assert run.recipe.model.tied == settings.get("tie_word_embeddings", False)

    @pytest.mark.parametrize(
        "settings",
        [
            {
                "embedding_multiplier": 12.0,
                "residual_multiplier": 0.2,
                "logits_scaling": 8.0,
                "attention_multiplier": 0.25,
            },
            {
                "embedding_multiplier": 6.0,
                "residual_multiplier": 0.4,
                "logits_scaling": 3.3,
                "attention_multiplier": 1 / 16,
                "tie_word_embeddings": True,
            },
            {"attention_multiplier": 0.25},
        ],
    )
    def test_granite(
        self, settings: dict[str, Any], saved: Callable[..., Any], tmp_path: Path
    ) -> None:
        """Also multipliers that no recipe holds: they go into the weights."""
        folder, expected = saved("Granite", **settings)
        run = import_model(folder, tmp_path / "lab")
        assert (_run_logits(run, some_tokens()) - expected).abs().max() < 1e-4
        assert run.recipe.model.parametrization == (
            "minicpm" if "logits_scaling" in settings else "standard"
        )

    @pytest.mark.parametrize(
        "settings",
        [
            {
                "embedding_multiplier": 12.0,
                "residual_multiplier": 0.2,
                "logits_scaling": 8.0,
                "attention_multiplier": 0.25,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
            },
            {
                "attention_multiplier": 0.25,
                "num_local_experts": 5,
                "num_experts_per_tok": 3,
                "tie_word_embeddings": True,
            },
        ],
    )
    def test_granite_with_experts(
        self, settings: dict[str, Any], saved: Callable[..., Any], tmp_path: Path
    ) -> None:
        folder, expected = saved("GraniteMoe", **settings)
        run = import_model(folder, tmp_path / "lab")
        assert (_run_logits(run, some_tokens()) - expected).abs().max() < 1e-4
        model = run.recipe.model
        assert (model.experts, model.experts_per_token) == (
            settings["num_local_experts"],
            settings["num_experts_per_tok"],
        )


@pytest.mark.parametrize(
    "shape", ["grouped", "untied", "odd width", "standard", "experts", "standard experts"]
)
def test_gguf(shape: str, tmp_path: Path, corpus: Corpus) -> None:
    pytest.importorskip("gguf")
    model = model_of(shape)
    weights = weights_of(model)
    portable = portable_of(model, weights, corpus.tokenizer, 128)
    file = LAYOUTS["gguf"].write(tmp_path, portable, "F32")
    run = import_model(file, tmp_path / "lab")
    tokens = some_tokens()
    assert (_run_logits(run, tokens) - logits_of(model, weights, tokens)).abs().max() < 1e-5
    assert (run.recipe.name, run.recipe.data.context) == ("x", 128)


class TestStem:
    """An imported model is a stem like any other."""

    @pytest.fixture
    def stem(self, lab: Any, corpus: Corpus, tmp_path: Path) -> Run:
        config = PUBLISHED["1B"] | {"max_position_embeddings": 64}
        made = import_model(
            _folder(tmp_path / "theirs", corpus, config, _tensors(config)), lab.path
        )
        at_once = made.recipe.change(
            train={
                "precision": "fp32",
                "compile": False,
                "device": "cpu",
                "evaluate_every": "50%",
                "evaluate_tokens": 256,
            }
        )
        (made.path / "recipe.toml").write_text(dump(at_once))
        return open_run(made.path)

    def test_its_content_is_its_identity(
        self, stem: Run, lab: Any, corpus: Corpus, tmp_path: Path
    ) -> None:
        config = PUBLISHED["1B"] | {"max_position_embeddings": 64}
        tensors = _tensors(config)
        elsewhere = _folder(tmp_path / "elsewhere", corpus, config, tensors)
        assert import_model(elsewhere, lab.path, name="another") == stem
        tensors["model.norm.weight"][0] += 1
        assert import_model(_folder(elsewhere, corpus, config, tensors), lab.path) != stem
        assert len(list_runs(lab.path)) == 2

    def test_what_it_is(self, stem: Run, lab: Any, corpus: Corpus) -> None:
        assert (stem.kind, stem.parent, stem.corpus, stem.status()) == (
            "stem",
            None,
            "",
            RunStatus(status="done", tokens=0),
        )
        assert stem.recipe.is_imported and stem.recipe.is_stem and stem.recipe.total_tokens == 0
        assert find_run(lab.path, "theirs") == stem
        assert stem.tokenizer.read_bytes() == corpus.tokenizer.definition
        assert (
            stem.path.joinpath("recipe.toml").exists()
            and load_model(stem, 0).model == stem.recipe.model
        )
        (shown,) = lab.json("runs")
        assert (shown["name"], shown["tokens"], shown["loss"]) == ("theirs", 0, None)

    def test_a_branch_begins_with_its_weights(self, stem: Run, corpus: Corpus) -> None:
        made = branch(stem, corpus, 0, 256, lr=1e-9, batch=128, context=32, mixture={"prose": 1})
        assert (made.kind, made.parent, made.at_tokens) == ("branch", stem.id, 0)
        assert (made.recipe.data.corpus, made.recipe.data.mixture) == ("tiny", {"prose": 1})
        assert train(made, corpus).status == "done"
        batch = torch.from_numpy(Windows(corpus, made.recipe.data, made.recipe.seed).read(0, 128))
        with torch.no_grad():
            expected = load_model(stem).losses(batch[:, :-1], batch[:, 1:]).mean()
        first = made.steps()[0].loss
        assert first == pytest.approx(float(expected), abs=1e-5)
        before, after = (dict(load_model(run).named_parameters()) for run in (stem, made))
        assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before), (
            "nothing wears it away"
        )

    def test_a_branch_learns(self, stem: Run, corpus: Corpus) -> None:
        made = branch(stem, corpus, 0, 20 * 128, lr=0.03, batch=128, context=32)
        train(made, corpus)
        losses = [step.loss for step in made.steps()]
        assert len(losses) == 20 and losses[-1] < 0.9 * losses[0]
        assert write_page(made.lab).exists()

    def test_it_becomes_a_mixture_of_experts(self, stem: Run, corpus: Corpus) -> None:
        asked = upcycle.Asked(tokens=20 * 128, experts=4, lr=0.03, batch=128, context=32)
        made = upcycle.upcycle(stem, corpus, asked)
        assert train(made, corpus).status == "done"
        losses = [step.loss for step in made.steps()]
        assert len(losses) == 20 and losses[-1] < 0.9 * losses[0]
        with pytest.raises(InputError, match="has no learning rate; give one, such as 3e-4"):
            upcycle.upcycle(stem, corpus, dataclasses.replace(asked, lr=None))

    def test_a_branch_that_was_stopped_goes_on_to_the_same_bits(
        self, stem: Run, corpus: Corpus, tmp_path: Path, final_bytes: Callable[[Path], Any]
    ) -> None:
        made = branch(stem, corpus, 0, 8 * 128, lr=0.003, batch=128, context=32, name="one")
        steps = iter([False, False, True])
        assert train(made, corpus, Watch(stop=lambda: next(steps))).status == "interrupted"
        assert train(made, corpus).status == "done"
        stopped = final_bytes(made.path)
        for path in sorted(made.path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        made.path.rmdir()
        again = branch(stem, corpus, 0, 8 * 128, lr=0.003, batch=128, context=32, name="one")
        train(again, corpus)
        assert (again.id, final_bytes(again.path)) == (made.id, stopped)

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ({"lr": None}, "--lr: .* has no learning rate"),
            ({"at": 128}, "--at 128"),
            ({"context": 128}, "--context 128: .* was made for at most 64 tokens"),
            ({"context": 48}, "must be a multiple of data.context=48"),
            ({"mixture": {"verse": 1.0}}, "verse"),
        ],
    )
    def test_a_branch_that_cannot_be_is_refused(
        self, how: dict[str, Any], says: str, stem: Run, corpus: Corpus, lab: Any
    ) -> None:
        files = lab.files()
        asked = {"at": 0, "decay": 256, "lr": 1e-3, "batch": 128, "context": 32} | how
        with pytest.raises(InputError, match=says):
            branch(stem, corpus, **asked)
        assert lab.files() == files

    def test_text_of_another_tokenizer_is_refused(self, stem: Run, lab: Any) -> None:
        texts = [f"another text {i} of words" * 20 for i in range(50)]
        other = build(
            lab.path / "corpora/other",
            {"a": Documents(read=lambda: iter(texts), origin="generated")},
            vocab=300,
        )
        said = f"its tokenizer is not that of {stem.id}; build it with .*--tokenizer {stem.id}"
        with pytest.raises(InputError, match=said):
            upcycle.upcycle(stem, other, upcycle.Asked(tokens=256, lr=1e-3, batch=128, context=32))
        with pytest.raises(InputError, match=said):
            branch(stem, other, 0, 256, lr=1e-3, batch=128, context=32)

    def test_it_is_not_trained_by_itself(self, stem: Run, lab: Any) -> None:
        done = lab.run("train", stem.path / "recipe.toml")
        assert done.returncode == 2 and "an imported model names no corpus" in done.stderr

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                {"schedule": {"tokens": 0, "warmup": 0, "decay": 0}},
                r"schedule\.tokens must be more than zero",
            ),
            ({"data": {"corpus": ""}}, r"data\.corpus is empty"),
        ],
    )
    def test_only_an_import_has_neither_tokens_nor_corpus(
        self, change: dict[str, Any], says: str, recipe: Callable[..., Any]
    ) -> None:
        with pytest.raises(InputError, match=says):
            recipe(**change)

    def test_another_corpus_begins_at_a_checkpoint_of_any_stem(
        self, corpus: Corpus, lab: Any, recipe: Callable[..., Any]
    ) -> None:
        stem = create(
            lab.path, recipe(schedule={"tokens": 10 * 128, "warmup": 128, "decay": 0}), corpus
        )
        train(stem, corpus)
        texts = [f"other words {i} " * 40 for i in range(60)]
        words = {"more": Documents(read=lambda: iter(texts), origin="generated")}
        other = build(lab.path / "corpora/other", words, tokenizer=stem.tokenizer)
        made = branch(stem, other, 10 * 128, 2 * 128)
        assert (made.recipe.data.corpus, made.corpus, made.at_tokens) == (
            "other",
            other.digest,
            10 * 128,
        )
        assert train(made, other).status == "done"
        with pytest.raises(InputError, match="can only begin at a checkpoint of"):
            branch(stem, other, 5 * 128, 2 * 128)

    def test_more_rows_than_tokens_are_for_imported_models_alone(
        self, stem: Run, corpus: Corpus, recipe: Callable[..., Any], lab: Any
    ) -> None:
        assert stem.recipe.model.vocab == 330 > corpus.tokenizer.vocab
        with pytest.raises(InputError, match=r"set model\.vocab=320"):
            create(lab.path, recipe(model={"vocab": 330}), corpus)


class TestIdentity:
    """An import is known by all that is used of it."""

    @pytest.fixture
    def folder(self, tmp_path: Path, corpus: Corpus) -> Path:
        model = model_of("standard")
        (tmp_path / "theirs").mkdir()
        portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
        return LAYOUTS["llama"].write(tmp_path / "theirs", portable, "fp32")

    @pytest.mark.parametrize("form", ["llama", "minicpm", "gguf"])
    def test_the_same_gives_the_same_run(self, form: str, tmp_path: Path, corpus: Corpus) -> None:
        model = model_of("standard")
        (tmp_path / "theirs").mkdir()
        portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
        source = LAYOUTS[form].write(tmp_path / "theirs", portable, LAYOUTS[form].dtypes[0])
        one, two = (import_model(source, tmp_path / "lab") for _ in range(2))
        assert one.id == two.id and len(list_runs(tmp_path / "lab")) == 1

    def test_a_corrected_tokenizer_config_gives_another(self, folder: Path, tmp_path: Path) -> None:
        old = import_model(folder, tmp_path / "lab")
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps(settings | {"chat_template": "{{ messages }}"}))
        new = import_model(folder, tmp_path / "lab")
        assert new.id != old.id
        assert brought_configs(new)[0]["chat_template"] == "{{ messages }}"
        assert "chat_template" not in brought_configs(old)[0]
        # the order of its keys says nothing
        file.write_text(json.dumps(dict(reversed(settings.items()))))
        assert import_model(folder, tmp_path / "lab").id == old.id

    def test_another_context_gives_another(self, folder: Path, tmp_path: Path) -> None:
        old = import_model(folder, tmp_path / "lab")
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 32}))
        new = import_model(folder, tmp_path / "lab")
        assert (new.id != old.id, new.recipe.data.context) == (True, 32)


class TestBadInput:
    """One line that names the file and the fault, and nothing in the lab."""

    @pytest.fixture
    def folder(self, tmp_path: Path, corpus: Corpus) -> Path:
        """A plain Llama in one file."""
        model = model_of("standard")
        (tmp_path / "theirs").mkdir()
        portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
        return LAYOUTS["llama"].write(tmp_path / "theirs", portable, "fp32")

    def _refused(self, source: Path, *says: str) -> None:
        lab = source.parent / "lab"
        with pytest.raises(InputError) as caught:
            import_model(source, lab)
        message = str(caught.value)
        assert "\n" not in message and all(word in message for word in (source.name, *says)), (
            message
        )
        assert not list(lab.rglob("*"))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                {"architectures": ["LlamaForCasualLM"]},
                ["LlamaForCasualLM", "did you mean 'LlamaForCausalLM'"],
            ),
            (
                {"architectures": ["GPT2LMHeadModel"]},
                ["GPT2LMHeadModel", "expected one of GraniteForCausalLM"],
            ),
            ({"architectures": [], "model_type": None}, ["architecture None is unknown"]),
            ({"hidden_size": None}, ["hidden_size: missing"]),
            ({"hidden_size": "64"}, ["hidden_size: expected a whole number", "'64'"]),
            ({"hidden_size": -64}, ["hidden_size", "-64"]),
            ({"num_key_value_heads": 3}, ["heads=4 must be a multiple of kv_heads=3"]),
            ({"hidden_act": "relu"}, ["hidden_act=relu"]),
            ({"attention_bias": True}, ["attention_bias"]),
            (
                {"num_experts": 8},
                ["num_experts=8", "a LlamaForCausalLM with experts is not supported"],
            ),
            (
                {"num_local_experts": 8},
                ["num_local_experts=8", "a LlamaForCausalLM with experts is not supported"],
            ),
            ({"quantization_config": {"bits": 4}}, ["quantised"]),
            ({"rope_scaling": {"type": "su", "factor": 4.0}}, ["RoPE of type 'su'"]),
            ({"rope_scaling": {"rope_type": "llama3"}}, ["factor: missing"]),
            ({"rope_scaling": "yarn"}, ["rope_scaling: expected an object, got 'yarn'"]),
            ({"tie_word_embeddings": "false"}, ["tie_word_embeddings: expected true or false"]),
            ({"rms_norm_eps": math.nan}, ["rms_norm_eps: expected a number above zero, got nan"]),
            ({"num_hidden_layers": 1 << 40}, ["tensors are too few for 1099511627776 layers"]),
            (
                {"architectures": ["Qwen2ForCausalLM"]},
                ["'Qwen2ForCausalLM' (a Llama with biases) is unknown", "expected one of Granite"],
            ),
            (
                {"architectures": ["Qwen3ForCausalLM"]},
                ["(a Llama with norms of query and key (QK-norm)) is unknown"],
            ),
            ({"architectures": ["MiniCPMForCausalLM"]}, ["scale_emb: missing"]),
            ({"num_hidden_layers": 3}, ["model.layers.2.input_layernorm.weight is missing"]),
            ({"num_hidden_layers": 1}, ["model.layers.1", "no such tensor"]),
            (
                {"intermediate_size": 128},
                ["mlp.down_proj.weight has shape (64, 160)", "asks for (64, 128)"],
            ),
            ({"vocab_size": 319}, ["embed_tokens", "(320, 64)", "(319, 64)"]),
        ],
    )
    def test_a_config(self, change: dict[str, Any], says: list[str], folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        self._refused(folder, *says)

    @pytest.mark.parametrize("text", ["{", "[1]", ""])
    def test_a_config_that_is_none(self, text: str, folder: Path) -> None:
        (folder / "config.json").write_text(text)
        self._refused(folder, "config.json", "JSON")

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
    def test_cut_safetensors(self, share: float, folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        self._refused(folder, "model.safetensors", "not a whole safetensors file")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
                ["model.layers.1.mlp.up_proj.weight is missing"],
            ),
            (
                lambda t: t.update(
                    {
                        "model.layers.1.mlp.up_proj.wieght": t.pop(
                            "model.layers.1.mlp.up_proj.weight"
                        )
                    }
                ),
                [
                    "model.layers.1.mlp.up_proj.weight is missing; "
                    "did you mean 'model.layers.1.mlp.up_proj.wieght'"
                ],
            ),
            (
                lambda t: t.update({"model.norm.weight": torch.ones(63)}),
                ["model.norm.weight has shape (63,)", "(64,)"],
            ),
            (
                lambda t: t.update({"model.norm.weight": torch.full((64,), torch.nan)}),
                ["model.norm.weight", "not finite"],
            ),
            (
                lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
                ["model.norm.weight", "I8"],
            ),
            (
                lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}),
                ["q_proj.bias: not supported: biases"],
            ),
            (
                lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}),
                ["q_norm.weight: not supported: norms of query and key (QK-norm)"],
            ),
            (
                lambda t: t.update({"model.layers.0.spare.weight": torch.ones(64)}),
                ["layers.0.spare.weight: this architecture has no such tensor"],
            ),
            (
                lambda t: t["model.layers.1.mlp.up_proj.weight"][2].fill_(math.inf),
                ["model.layers.1.mlp.up_proj.weight", "not finite"],
            ),
            (
                lambda t: t.update({"lm_head.weight": torch.ones(320, 64)}),
                ["lm_head.weight is not", "ties them"],
            ),
        ],
    )
    def test_tensors(
        self, change: Callable[[dict[str, Tensor]], Any], says: list[str], folder: Path
    ) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        self._refused(folder, *says)

    def test_a_head_that_is_the_embedding_may_be_stored(self, folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file(
            tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
            folder / "model.safetensors",
        )
        assert "head" not in LAYOUTS["llama"].read(folder).weights

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
    def test_a_pickle_is_never_read(self, name: str, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "kept")
        torch.save({"x": torch.ones(1)}, folder / name)
        self._refused(folder, name, "a pickle is a program")
        self._refused(folder / name, name, "a pickle is a program")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                lambda names: names.update(
                    dict.fromkeys(names, "model-00003-of-00002.safetensors")
                ),
                ["00003", "missing"],
            ),
            (
                lambda names: names.update({name: "../kept.safetensors" for name in names}),
                ["weight_map", "this folder"],
            ),
            (
                lambda names: names.update(
                    {"model.norm.weight": "model-00001-of-00002.safetensors"}
                ),
                ["model.norm.weight"],
            ),
        ],
    )
    def test_an_index(
        self,
        change: Callable[[dict[str, str]], Any],
        says: list[str],
        tmp_path: Path,
        corpus: Corpus,
    ) -> None:
        config = PUBLISHED["1B"]
        tensors = {k: v for k, v in sorted(_tensors(config).items())}
        folder = _folder(tmp_path / "theirs", corpus, config, tensors)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        change(index["weight_map"])
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        self._refused(folder, *says)

    def test_a_folder_without_weights_or_tokenizer(self, folder: Path, tmp_path: Path) -> None:
        (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
        self._refused(folder, "no tokenizer.json")
        (folder / "tokenizer.json").write_text("{}")
        self._refused(folder, "not a Hugging Face tokenizer.json")
        (folder / "model.safetensors").unlink()
        self._refused(folder, "no model.safetensors")
        self._refused(tmp_path / "nowhere", "no such folder or file")

    def test_more_tokens_than_rows(self, folder: Path, corpus: Corpus) -> None:
        model = model_of("standard").model_copy(update={"vocab": 300})
        portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
        LAYOUTS["llama"].write(folder, portable, "fp32")
        self._refused(folder, "320 tokens", "300 rows")

    def test_gguf(self, folder: Path, corpus: Corpus, tmp_path: Path) -> None:
        pytest.importorskip("gguf")
        model = model_of("tied")
        portable = portable_of(model, weights_of(model), corpus.tokenizer)
        file = LAYOUTS["gguf"].write(tmp_path, portable, "F32")
        whole = file.read_bytes()
        for share in (0.01, 0.5, 0.99):
            file.write_bytes(whole[: int(share * len(whole))])
            self._refused(file, file.name)
        file.write_bytes(b"not a model")
        self._refused(file, "not a GGUF file")
        self._refused(folder / "model.safetensors", "weights alone")
