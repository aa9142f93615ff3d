"""Code tasks: whether what a model wrote passes a task's tests."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.evaluate.sandbox import run

_FENCED = re.compile(r"```(?:python|py)?\n(.*?)(?:\n```|$)", re.DOTALL)


def pass_of(doc: Mapping[str, Any], results: Sequence[str], trust: bool) -> dict[str, float]:
    """For lm-eval's `process_results`: 1 where the tests pass. `trust`: as of `sandbox.run`."""
    outcome = run(program_of(doc, results[0]), trust=trust)
    return {"pass@1": float(outcome.passed)}


def program_of(doc: Mapping[str, Any], answer: str) -> str:
    """What is run: of a function whose head was given, that head, what the model wrote, and the
    tests; of a sentence, what it wrote and the tests.
    """
    if "entry_point" in doc:
        return f"{doc['prompt']}{answer}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    fenced = _FENCED.search(answer)
    return f"{fenced[1] if fenced else answer}\n{doc['test']}\n"
