"""GGUF: llama.cpp itself gives our log-probabilities and token ids; what is written is read; bad
files are refused.
"""

from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ship_models import SHAPES, model_of, portable_of, weights_of
from unicode_lines import unicode_line

from windtunnel.data.chat_format import OURS
from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.recipe import Model
from windtunnel.results.export import Agreement
from windtunnel.ship.fields import Fields
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.gguf import model as gguf
from windtunnel.ship.gguf.file import metadata
from windtunnel.ship.held_out import ODD_LINES, HeldOut, held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.multipliers import fold
from windtunnel.ship.portable import PortableModel
from windtunnel.ship.verify import verify

package = pytest.importorskip("gguf")
CONTEXT = 64
EXACT = 5e-4  # nats, of a log-probability in fp32
# Half a step as a share of a block's largest number. (Q4_0 and Q5_0 have one step less above zero
# than below.)
_HALF_STEPS = {
    "F32": 0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 1 / 254,
    "Q5_1": 1 / 31,
    "Q5_0": 1 / 15,
    "Q4_1": 1 / 15,
    "Q4_0": 1 / 7,
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, corpus: Corpus) -> Write:
    def make(model: Model, weights: Any = None, kind: str = "F32", **how: Any) -> Path:
        file = tmp_path / "x.gguf"
        gguf.write(file, portable(model, weights or weights_of(model), corpus, **how), kind)
        return file

    return make


def portable(model: Model, weights: Any, corpus: Corpus, **how: Any) -> PortableModel:
    tokenizer = how.pop("tokenizer", corpus.tokenizer)
    return portable_of(model, weights, tokenizer, CONTEXT, chat_template=OURS.template, **how)


def check(file: Path, model: Model, weights: Any, corpus: Corpus, held: HeldOut) -> Agreement:
    """What llama.cpp makes of a file, against the model that it should hold."""
    kind = package.LlamaFileType(metadata(file)["general.file_type"]).name.split("_", 1)[1]
    return verify(LAYOUTS["gguf"], kind, file, portable(model, weights, corpus), held)


@pytest.fixture(scope="module")
def held(corpus: Corpus) -> HeldOut:
    return held_out(corpus, CONTEXT, 360, 20)


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_gives_our_log_probabilities(
    shape: str, write: Write, corpus: Corpus, held: HeldOut
) -> None:
    pytest.importorskip("xllamacpp")
    model = model_of(shape)
    weights = weights_of(model)
    found = check(write(model, weights), model, weights, corpus, held)
    assert found.good and found.most == EXACT and found.max_difference <= EXACT, found
    assert found.tokens >= 360 and found.wrong_lines == 0 and found.lines == 20
    assert log_probabilities(model, weights, held.windows).std() > 0.3, "or anything would agree"


def test_llama_cpp_turns_positions_far_out_as_we_do(tmp_path: Path, corpus: Corpus) -> None:
    pytest.importorskip("xllamacpp")
    model, file = model_of("long RoPE"), tmp_path / "x.gguf"
    weights, held = weights_of(model), held_out(corpus, 1024, 1000, 0)
    template = OURS.template
    gguf.write(
        file, portable_of(model, weights, corpus.tokenizer, 1024, chat_template=template), "F32"
    )
    found = check(file, model, weights, corpus, held)
    assert found.good and found.most == EXACT and found.tokens >= 1000, found


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("shape", ["grouped", "experts"])
def test_rounded_weights_change_little(
    shape: str, kind: str, write: Write, corpus: Corpus, held: HeldOut
) -> None:
    pytest.importorskip("xllamacpp")
    model = model_of(shape)
    weights = {
        name: tensor * (0.5 if tensor.dim() > 1 else 1)
        for name, tensor in weights_of(model).items()
    }
    found = check(write(model, weights, kind), model, weights, corpus, held)
    assert found.layout == f"gguf {kind}" and found.good and found.mean_difference > 0, found


@pytest.mark.parametrize(
    "field", ["scale_emb", "scale_depth", "base_width", "rope_base", "norm_eps"]
)
def test_a_setting_that_is_off_is_seen(
    field: str, write: Write, corpus: Corpus, held: HeldOut
) -> None:
    pytest.importorskip("xllamacpp")
    model = model_of("grouped")
    weights = weights_of(model)
    value = getattr(model, field)
    off = model.model_copy(update={field: value * (10_000 if field == "norm_eps" else 2)})
    assert not check(write(off, weights), model, weights, corpus, held).good


def test_query_and_key_out_of_order_are_seen(write: Write, corpus: Corpus, held: HeldOut) -> None:
    pytest.importorskip("xllamacpp")
    model = model_of("tied")
    weights = weights_of(model)
    turned = {
        name: tensor.flip(0) if name.endswith("query") else tensor
        for name, tensor in weights.items()
    }
    assert not check(write(model, turned), model, weights, corpus, held).good


@pytest.mark.parametrize("fault", ["experts_per_token", "gate", "router"])
def test_experts_that_are_mixed_up_are_seen(
    fault: str, write: Write, corpus: Corpus, held: HeldOut
) -> None:
    pytest.importorskip("xllamacpp")
    model = model_of("experts")
    weights = weights_of(model)
    turned = {
        name: tensor.flip(0) if name.endswith(fault) else tensor for name, tensor in weights.items()
    }
    off = model.model_copy(update={"experts_per_token": 3 if fault == "experts_per_token" else 2})
    assert not check(write(off, turned), model, weights, corpus, held).good


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_read(shape: str, write: Write) -> None:
    model = model_of(shape)
    weights = weights_of(model)
    found = gguf.read(write(model, weights))
    assert (found.name, found.context, found.chat_template) == ("x", CONTEXT, OURS.template)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in weights.items())
    assert set(found.weights) == set(weights)
    windows = np.arange(40).reshape(2, 20)
    again = log_probabilities(found.model, found.weights, windows)
    assert np.abs(again - log_probabilities(model, weights, windows)).max() < 1e-5
    if model.parametrization == "minicpm":
        assert found.model == model


@pytest.mark.parametrize(("kind", "share"), _HALF_STEPS.items())
def test_every_precision_is_read_back_as_near_as_it_is(
    kind: str, share: float, write: Write
) -> None:
    for shape in ("tied", "odd width", "standard experts"):
        weights = weights_of(model_of(shape))
        for name, tensor in gguf.read(write(model_of(shape), weights, kind)).weights.items():
            whole_blocks = tensor.shape[-1] % 32 == 0 or not kind.startswith(
                "Q"
            )  # else it stays 16-bit
            nearest = 1.01 * (share if whole_blocks else _HALF_STEPS["F16"]) * tensor.abs().max()
            assert (tensor - weights[name]).abs().max() <= nearest, name


def test_a_model_without_multipliers_is_a_plain_llama(write: Write) -> None:
    assert metadata(write(model_of("standard")))["general.architecture"] == "llama"
    said = metadata(write(model_of("standard")))
    assert said["general.size_label"].endswith("K")
    assert not [key for key in said if "scale" in key], "a llama has no multipliers"
    assert metadata(write(model_of("tied")))["general.architecture"] == "granite"
    assert metadata(write(model_of("standard experts")))["general.architecture"] == "granitemoe"
    folded, weights = fold(model_of("tied"), weights_of(model_of("tied")))
    file = write(folded.model_copy(update={"parametrization": "standard"}), weights)
    assert metadata(file)["general.architecture"] == "llama"
    assert not gguf.read(file).model.tied


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("minicpm", (12.0, 1.4 / 40**0.5, 1 / 8, 1 / 9)), ("granite", (1.0, 1.0, 1 / 8, 1.0))],
)
def test_multipliers_that_a_file_leaves_unsaid(
    architecture: str, expected: tuple[float, ...]
) -> None:
    """An old file of a MiniCPM means the paper's; any other has none."""
    shape = {"width": 2304, "depth": 40, "head_size": 64}
    found = gguf._read_multipliers(architecture, Fields({}, "x"), shape)
    assert astuple(found) == pytest.approx(expected)


def test_multipliers_of_32_bits_are_as_they_were_typed() -> None:
    given = {
        "embedding_scale": 10.1,
        "residual_scale": 1.4 / 7**0.5,
        "logit_scale": 96 / 32,
        "attention.scale": 1 / 24**0.5,
    }
    said = {key: float(np.float32(value)) for key, value in given.items()}
    found = gguf._read_multipliers(
        "granite", Fields(said, "x"), {"width": 96, "depth": 7, "head_size": 24}
    )
    assert astuple(found) == (10.1, 1.4 / 7**0.5, 1 / 24**0.5, 1 / 3)


def test_the_tokenizer_comes_back(write: Write, corpus: Corpus) -> None:
    again, ours = gguf.read(write(model_of("tied"))).tokenizer, corpus.tokenizer
    assert (again.vocab, again.eos) == (ours.vocab, ours.eos)
    assert (again.token_bytes == ours.token_bytes).all()
    for line in ODD_LINES:
        assert again.encode(line).tolist() == ours.encode(line).tolist()
        assert again.decode(again.encode(line)) == line


def test_llama_cpp_gives_our_ids_of_any_unicode(write: Write, corpus: Corpus) -> None:
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    with LlamaCpp(write(model_of("tied"))) as engine:
        _compare_ids(engine, corpus, [*ODD_LINES, *(unicode_line(seed) for seed in range(400))])


@pytest.mark.slow
def test_two_thousand_tokens_and_ten_thousand_lines(write: Write, corpus: Corpus) -> None:
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    held = held_out(corpus, CONTEXT, 2000, 5000)
    for shape in SHAPES:
        model = model_of(shape)
        weights = weights_of(model)
        text = replace(held, lines=held.lines if shape == "tied" else ())
        found = check(write(model, weights), model, weights, corpus, text)
        assert found.good and found.tokens >= 2000, found
        print(found)
    with LlamaCpp(write(model_of("tied"))) as engine:
        _compare_ids(
            engine, corpus, [unicode_line(seed) for seed in range(10_000 - len(held.lines))]
        )


def test_nothing_is_put_before_or_behind_a_text(write: Write) -> None:
    fields = metadata(write(model_of("tied")))
    assert not fields["tokenizer.ggml.add_bos_token"] and not fields["tokenizer.ggml.add_eos_token"]
    assert fields["tokenizer.ggml.eos_token_id"] == 0
    assert fields["tokenizer.chat_template"] == OURS.template


def test_a_file_that_is_cut_off_is_refused(write: Write, tmp_path: Path) -> None:
    whole = write(model_of("tied")).read_bytes()
    part = tmp_path / "part.gguf"
    for share in (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.9, 0.999):
        part.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"part\.gguf: (cut off or damaged|not a GGUF file)"):
            gguf.read(part)


def test_other_files_are_refused(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "y.gguf"
    file.write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(InputError, match="not a GGUF file"):
        gguf.read(file)
    with pytest.raises(InputError, match="No such file"):
        gguf.read(tmp_path / "nowhere.gguf")
    file.write_bytes(write(model_of("tied")).read_bytes().replace(b"granite", b"granita"))
    with pytest.raises(
        InputError, match="architecture 'granita'; expected one of llama, granite, granitemoe, "
    ):
        gguf.read(file)


def test_a_missing_or_misshapen_tensor_is_named(write: Write, tmp_path: Path) -> None:
    whole, file = write(model_of("tied")).read_bytes(), tmp_path / "y.gguf"
    file.write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(InputError, match=r"tensor blk\.1\.ffn_up\.weight is missing"):
        gguf.read(file)
    file.write_bytes(whole.replace(b"output_norm.weight", b"rope_factorsweight"))
    with pytest.raises(InputError, match="RoPE that is scaled"):
        gguf.read(file)
    wider = model_of("tied").model_copy(update={"ffn": 192})
    weights = weights_of(wider) | {"layers.2.down": weights_of(model_of("tied"))["layers.2.down"]}
    with pytest.raises(
        InputError, match=r"blk\.2\.ffn_down\.weight is \(64, 160\); its metadata say \(64, 192\)"
    ):
        gguf.read(write(wider, weights))


def test_experts_that_are_not_all_there_are_named(write: Write, tmp_path: Path) -> None:
    model, file = model_of("experts"), tmp_path / "y.gguf"
    weights = weights_of(model)
    whole = write(model, weights).read_bytes()
    file.write_bytes(whole.replace(b"blk.1.ffn_up_exps.weight", b"blk.1.ffn_up_expx.weight"))
    with pytest.raises(InputError, match=r"tensor blk\.1\.ffn_up_exps\.weight is missing"):
        gguf.read(file)
    with pytest.raises(
        InputError, match=r"blk\.0\.ffn_gate_inp\.weight is \(8, 64\); its metadata say \(9, 64\)"
    ):
        gguf.read(write(model.model_copy(update={"experts": 9}), weights))
    fewer = weights | {"layers.2.down": weights["layers.2.down"][:7]}
    with pytest.raises(
        InputError, match=r"blk\.2\.ffn_down_exps\.weight is \(7, 64, 96\); .* \(8, 64, 96\)"
    ):
        gguf.read(write(model, fewer))


def test_experts_elsewhere_are_refused(tmp_path: Path) -> None:
    """llama.cpp has them in other architectures too."""
    writer = package.GGUFWriter(tmp_path / "y.gguf", "llama")
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_feed_forward_length(96)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(8)
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        InputError, match=r"y\.gguf: 8 experts in architecture 'llama'; expected them in granitemoe"
    ):
        gguf.read(tmp_path / "y.gguf")


def test_what_cannot_be_written_is_refused(write: Write, tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"Q4_K: expected one of F32, .*; did you mean 'Q4_K_M'"):
        LAYOUTS["gguf"].dtype_of("Q4_K")
    text = (corpus.folder / "tokenizer.json").read_text()
    text = text.replace('"individual_digits": true', '"individual_digits": false')
    other = Tokenizer(text.encode())
    with pytest.raises(
        InputError, match=r"llama\.cpp has no name for how this tokenizer splits text"
    ):
        write(model_of("tied"), tokenizer=other)
    with pytest.raises(InputError, match="320 tokens, but the model has 300"):
        write(model_of("tied").model_copy(update={"vocab": 300}))
    with pytest.raises(InputError, match="could not be written"):
        gguf.write(
            tmp_path / "no" / "x.gguf",
            portable(model_of("tied"), weights_of(model_of("tied")), corpus),
            "F32",
        )
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_full_disk_is_named(write: Write, tmp_path: Path) -> None:
    """numpy gives no reason where it could not write all of an array."""
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("no /dev/full here")
    (tmp_path / "x.gguf.part").symlink_to(full)
    with pytest.raises(InputError, match=r"x\.gguf: could not be written: .*(No space|disk full)"):
        write(model_of("tied"))
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_with_spare_rows(write: Write, corpus: Corpus, held: HeldOut) -> None:
    """Models are often made with more rows than their tokenizer has tokens."""
    pytest.importorskip("xllamacpp")
    model = model_of("tied").model_copy(update={"vocab": 352})
    weights = weights_of(model)
    file = write(model, weights)
    assert check(file, model, weights, corpus, held).good
    assert gguf.read(file).model == model


def _compare_ids(engine: Any, corpus: Corpus, lines: list[str]) -> None:
    for line, ids in zip(lines, engine.tokenise(lines), strict=True):
        assert corpus.tokenizer.encode(line).tolist() == ids, ascii(line)
