"""The table of layouts: one record adds one everywhere, and an unknown name is refused."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ship_models import SHAPES, model_of, portable_of, weights_of

from windtunnel.cli import main
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.export import export
from windtunnel.ship.huggingface.architectures import LLAMA
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS, Bound, FolderLayout, layout_of, plain_name
from windtunnel.train.run import Run


@pytest.fixture
def mistral() -> Iterator[FolderLayout]:
    """One more layout: that of Llama by another name, which transformers has as well."""
    llama = LAYOUTS["llama"]
    assert isinstance(llama, FolderLayout)
    architecture = dataclasses.replace(LLAMA, name="MistralForCausalLM", model_type="mistral")
    layout = dataclasses.replace(
        llama,
        name="mistral",
        help="a Mistral",
        read_by="A Mistral, for a test.",
        architectures=(architecture,),
    )
    LAYOUTS.add(layout)
    yield layout
    del LAYOUTS["mistral"]


@pytest.fixture
def run(tmp_path: Path, corpus: Corpus) -> Run:
    """An imported model with multipliers."""
    model = model_of("grouped")
    portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
    (tmp_path / "theirs").mkdir()
    folder = LAYOUTS["minicpm"].write(tmp_path / "theirs", portable, "fp32")
    return import_model(folder, tmp_path / "lab")


def test_a_layout_is_added_by_its_record_alone(
    mistral: FolderLayout, run: Run, tmp_path: Path
) -> None:
    """It is written, confirmed by its engine, described, and read back in."""
    pytest.importorskip("transformers")
    made = export(run, "mistral")
    assert made.agreement.good and made.agreement.engine.endswith("MistralForCausalLM")
    config = json.loads((made.path / "config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"]
    assert "as `mistral` in fp32. A Mistral, for a test." in (made.path / "README.md").read_text()
    again = import_model(made.path, tmp_path / "other")
    assert again.origin and again.origin.layout == "mistral"
    assert again.recipe.model.parametrization == "standard", "its multipliers are in its weights"


def test_a_new_layout_is_in_the_help_and_in_the_errors(
    mistral: FolderLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from windtunnel.cli.ship import _dtypes_help, _layouts_help

    assert "; mistral (a Mistral)." in _layouts_help()
    assert "fp32, bf16, fp16 for hf, minicpm, llama, mistral; F32, " in _dtypes_help()
    monkeypatch.setattr("sys.argv", ["windtunnel", "export", "x"])
    with pytest.raises(SystemExit):
        main()
    assert "--to hf|minicpm|llama|gguf|mistral or --table" in capsys.readouterr().err


def test_an_unknown_layout_is_refused_with_the_known_ones(run: Run) -> None:
    with pytest.raises(InputError) as refused:
        export(run, "gguff")
    said = "--to gguff: expected one of hf, minicpm, llama, gguf; did you mean 'gguf'?"
    assert str(refused.value) == said


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_type_is_known_in_any_case_of_letters(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.dtype_of("") == layout.dtypes[0]
    for dtype in layout.dtypes:
        assert layout.dtype_of(dtype.upper()) == layout.dtype_of(dtype.lower()) == dtype
    with pytest.raises(InputError, match=f"--dtype int4: expected one of .* for --to {name}"):
        layout.dtype_of("int4")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_found_and_read_in_its_layout(
    name: str, shape: str, tmp_path: Path, corpus: Corpus
) -> None:
    pytest.importorskip("gguf")
    layout, model = LAYOUTS[name], model_of(shape)
    portable = portable_of(model, weights_of(model), corpus.tokenizer)
    if layout.refusal(model):
        with pytest.raises(InputError, match=f"--to {name}: .*; expected --to .*gguf"):
            layout.write(tmp_path, portable, layout.dtypes[0])
        assert not list(tmp_path.iterdir())
        return
    path = layout.write(tmp_path, portable, layout.dtypes[0])
    assert layout_of(path) is layout
    found = layout.read(path)
    assert found.tokenizer.definition == corpus.tokenizer.definition or name == "gguf"
    if name != "llama":
        assert all(torch.equal(found.weights[n], w) for n, w in portable.weights.items())


def test_the_page_on_shipping_names_every_layout() -> None:
    page = (Path(__file__).parents[2] / "docs/ship.md").read_text()
    for layout in LAYOUTS.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{layout.name}` |")]
        assert all(architecture.name in row for architecture in layout.architectures)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("hf", {"fp32": (1e-4, None), "bf16": (None, 0.005), "fp16": (None, 0.001)}),
        (
            "gguf",
            {
                "F32": (5e-4, None),
                "F16": (None, 0.001),
                "BF16": (None, 0.005),
                "Q8_0": (None, 0.005),
                "Q6_K": (None, 0.01),
                "Q5_K_M": (None, 0.03),
                "Q4_K_M": (None, 0.1),
                "Q5_1": (None, 0.03),
                "Q5_0": (None, 0.03),
                "Q4_1": (None, 0.1),
                "Q4_0": (None, 0.1),
            },
        ),
    ],
)
def test_how_near_an_engine_has_to_come(
    name: str, bounds: dict[str, tuple[float | None, float | None]]
) -> None:
    """The bound grows with half of the step between two numbers."""
    found = {
        dtype: (bound.difference, bound.change) for dtype, bound in LAYOUTS[name].bounds.items()
    }
    assert found == bounds and Bound() == Bound(difference=None, change=None)
    assert list(LAYOUTS[name].dtypes) == list(bounds), "the usual one first"


def test_one_expert_a_token_is_in_no_layout() -> None:
    def experts(number: int, each: int) -> Any:
        changes = {"experts": number, "experts_per_token": each}
        return model_of("experts").model_copy(update=changes)

    for layout in LAYOUTS.values():
        with pytest.raises(InputError, match=f"--to {layout.name}: one expert a token: here it"):
            layout.check(experts(4, 1))
    LAYOUTS["gguf"].check(experts(4, 2))
    LAYOUTS["gguf"].check(model_of("tied"))


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a b/c", "a-b-c"), ("..x-", "x"), ("äö", "model"), ("", "model"), ("A_1.2-b", "A_1.2-b")],
)
def test_a_name_that_a_file_can_have_everywhere(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_a_folder_is_of_the_layout_that_its_config_names(tmp_path: Path) -> None:
    for name, architecture in (
        ("hf", "GraniteMoeForCausalLM"),
        ("hf", "GraniteForCausalLM"),
        ("minicpm", "MiniCPMForCausalLM"),
        ("llama", "LlamaForCausalLM"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        assert layout_of(tmp_path) is LAYOUTS[name]
    assert layout_of(tmp_path / "x.gguf") is LAYOUTS["gguf"]
