"""What a run will take: told before it is begun, and held against what it took."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_peaks import peak_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.memory import devices_that_hold, room_of, training_memory
from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import Model, Recipe, load
from windtunnel.train import device
from windtunnel.train import step as steps
from windtunnel.train.cost import cost_of
from windtunnel.train.device import choose_engine, matrix_peak
from windtunnel.train.loop import train
from windtunnel.train.run import create
from windtunnel.train.step import Step

Make = Callable[..., Recipe]


def test_a_checkpoint_has_the_bytes_that_were_told(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    told = cost_of(recipe(), tmp_path)
    assert told.speed is None
    assert told.memory.of and told.memory.of > told.memory.total
    assert told.on_host == told.checkpoint, "what is written is a copy"
    assert (told.steps, told.tokens) == (50, 6400)
    assert told.flops == 6400 * flops_per_token(recipe().model, 32)
    assert told.params == count(recipe().model).params == told.active
    assert told.checkpoints == 3, "the two that are kept, and the one that is being written"
    run = create(tmp_path, recipe(), corpus)
    train(run, corpus)
    (last,) = [path for path in run.checkpoints.iterdir() if path.name == f"{6400:015d}"]
    written = sum(file.stat().st_size for file in last.glob("*.safetensors"))
    assert told.checkpoint == pytest.approx(written, rel=0.02), "but for the names of the tensors"
    metrics = (run.path / "metrics.jsonl").stat().st_size
    assert told.disk - 3 * told.checkpoint == pytest.approx(metrics, rel=0.5)


def test_the_speed_is_that_of_the_most_similar_run_or_what_was_asked_for(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    wide = recipe(model=recipe().model.model_dump() | {"width": 128, "ffn": 320, "head_size": 64})
    for each in (recipe(), wide):
        train(create(tmp_path, each, corpus), corpus)
    near, far = (create(tmp_path, each, corpus) for each in (wide, recipe()))
    told = cost_of(wide.change(seed=7), tmp_path).speed
    assert told and told.origin == f"as run {near.id} (tiny) reached"
    shares = sorted(line.peak_share for line in near.steps()[25:])
    assert shares[0] <= told.share <= shares[-1] and far.id not in told.origin
    asked = cost_of(recipe(), tmp_path, share=0.5).speed
    assert asked and (asked.share, asked.origin) == (0.5, "asked for")
    peak = matrix_peak(choose_engine(recipe()))
    assert asked.tokens_per_s == pytest.approx(0.5 * peak / flops_per_token(recipe().model, 32))
    assert asked.hours == pytest.approx(6400 / asked.tokens_per_s / 3600)


def test_a_validation_holds_one_layer(tmp_path: Path, recipe: Make) -> None:
    deep = recipe(model=recipe().model.model_dump() | {"depth": 40})
    memory = cost_of(deep, tmp_path).memory
    assert memory.total == memory.states + memory.copies + memory.activations + memory.head
    assert memory.validation < memory.total - 0.9 * memory.activations


def test_the_command_trains_nothing(lab: Any, recipe: Make) -> None:
    before = lab.files()
    file = lab.write(recipe())
    done = lab.run("train", file, "--dry-run")
    assert done.returncode == 0 and lab.files() == before
    assert "no --mfu was given" in done.stdout and "50 steps" in done.stdout
    told = json.loads(lab.run("train", file, "--dry-run", "--mfu", "25%", "--json").stdout)
    assert told["speed"]["share"] == 0.25 and told["engine"]["micro_batch"] == 128
    for wrong in ("0", "110%", "fast"):
        refused = lab.run("train", file, "--dry-run", "--mfu", wrong)
        assert refused.returncode == 2 and f"--mfu {wrong}: expected a share" in refused.stderr
    alone = lab.run("train", file, "--mfu", "25%")
    assert alone.returncode == 2 and "--mfu: expected --dry-run beside it" in alone.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "depth", "heads", "vocab", "context", "batch"),
    [(64, 4, 2, 2048, 256, 8192), (256, 8, 4, 2048, 512, 8192), (512, 6, 8, 32_768, 256, 4096)],
)
def test_memory_is_what_was_told_to_a_tenth(
    recipe: Make,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    depth: int,
    heads: int,
    vocab: int,
    context: int,
    batch: int,
) -> None:
    """The peak of three steps above what the process held before it had a model."""
    asked = recipe(
        model={"width": width, "depth": depth, "heads": heads, "vocab": vocab},
        data={"context": context},
        schedule={"tokens": 100 * batch, "warmup": batch},
        train={"batch": batch, "precision": "bf16", "compile": True},
    )
    # the C library is to give back what is freed
    monkeypatch.setattr(steps, "keep_memory", lambda: None)
    engine = choose_engine(asked)
    tokens = np.random.default_rng(0).integers(0, vocab, (batch // context, context + 1))

    def three_steps() -> None:
        step = Step([asked], engine)
        for _ in range(3):
            step.gradient(tokens)
            step.update([1.0])

    three_steps()  # compiles what there is to compile
    gc.collect()
    told = training_memory(asked.model, engine.micro_batch, context=context, device="cpu").total
    assert told == pytest.approx(peak_of(three_steps), rel=0.1)


@pytest.mark.parametrize(("devices", "machines"), [(2, 1), (4, 2)])
def test_on_several_devices_each_holds_its_share(
    devices: int, machines: int, tmp_path: Path, recipe: Make
) -> None:
    asked = recipe(train={"micro_batch": 32})
    alone = cost_of(asked, tmp_path, 0.5)
    many = cost_of(asked, tmp_path, 0.5, devices, machines)
    assert many.memory.states == alone.memory.states * machines // devices
    assert many.memory.activations == alone.memory.activations
    assert alone.traffic is None and many.traffic
    params = many.params_total
    assert many.traffic.between == 8 * params * (machines - 1) // machines
    # fp32: layers are gathered twice and scattered once, the rest once each
    model = asked.model
    outside = model.vocab * model.width + model.width
    parts = asked.train.batch // devices // 32
    within = parts * 4 * (3 * (params - outside) + 2 * outside)
    assert many.traffic.within == within // 2
    assert alone.speed and many.speed
    assert many.speed.tokens_per_s == pytest.approx(devices * alone.speed.tokens_per_s, rel=0.5)


def test_devices_that_cannot_share_a_batch_are_refused(tmp_path: Path, recipe: Make) -> None:
    with pytest.raises(InputError, match="3 processes can't share"):
        cost_of(recipe(), tmp_path, 0.5, 3)
    with pytest.raises(InputError, match="not as many on each of 3 machines"):
        cost_of(recipe(), tmp_path, 0.5, 4, 3)


def test_how_many_devices_it_takes_is_told_of_every_part(tmp_path: Path) -> None:
    """The paper's 1.2B and 2.4B at 128K tokens: by hand, with 16 bytes a parameter."""
    needs = {}
    for name in ("1.2b", "2.4b"):
        file = Path(__file__).parents[2] / "recipes" / f"minicpm-{name}.toml"
        asked = load(file, ["data.context=131072", "train.growth=[]", "train.batch=1048576"])
        params = count(asked.model).params_total
        for one in cost_of(asked, tmp_path).needs:
            needs[name, one.device] = one
            assert one.total == one.states + one.copies + one.activations + one.head
            if one.devices:
                assert one.total <= one.room == round(0.8 * one.memory)
                assert one.states == -(-16 * params // one.devices)
    assert {key: one.devices for key, one in needs.items()} == {
        ("1.2b", "rtx4090"): None,
        ("1.2b", "l40s"): None,
        ("1.2b", "h100"): 2,
        ("1.2b", "h200"): 1,
        ("2.4b", "rtx4090"): None,
        ("2.4b", "l40s"): None,
        ("2.4b", "h100"): None,
        ("2.4b", "h200"): 2,
        ("2.4b", "b200"): 1,
    }
    # what enters each layer in fp32, 49.7 kB a token of one layer, and the last stream
    each = 4 * 52 * 1536 + 49.7e3 + 6 * 1536
    assert needs["1.2b", "h100"].activations == pytest.approx(131_072 * each, rel=0.01)


def test_one_device_less_would_not_hold_it(tmp_path: Path) -> None:
    model = parse_model("1.2b")
    for memory in (24e9, 48e9, 80e9):
        devices = devices_that_hold(model, memory, context=32_768)
        if devices is None:
            continue
        held = [
            training_memory(model, 32_768, context=32_768, recompute=True, ranks=ranks).total
            for ranks in (devices - 1, devices)
            if ranks
        ]
        assert held[-1] <= room_of(memory)
        assert len(held) == 1 or held[0] > room_of(memory)


def parse_model(name: str) -> Model:
    return load(Path(__file__).parents[2] / "recipes" / f"minicpm-{name}.toml").model


def test_a_window_that_no_device_holds_is_refused_and_said_what_would_be_needed(
    tmp_path: Path, recipe: Make, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(train={"precision": "bf16"}, schedule={"tokens": 1280})
    one, many = (
        training_memory(asked.model, 32, context=32, device="cpu", recompute=True, ranks=ranks)
        for ranks in (1, 1 << 20)
    )
    run = create(tmp_path, asked, corpus)
    for memory, said in (
        (0.9 * many.total, "expected a smaller data.context than 32, or devices with more; a wind"),
        (0.95 * one.total, r"expected \d+ such devices or more, over which torchrun cuts it"),
    ):
        monkeypatch.setattr(device, "device_memory", lambda kind, told=memory: round(told))
        with pytest.raises(InputError, match=said):
            train(run, corpus)
    monkeypatch.setattr(device, "device_memory", lambda kind: one.total)
    assert train(run, corpus).status == "done"
