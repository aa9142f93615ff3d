"""How a study is read by somebody who did not make it: its question, and what to do next."""

import re
from dataclasses import dataclass
from typing import Any

from windtunnel.choices import Table
from windtunnel.results.study import StudyResult

_COMMAND = re.compile(r"`(windtunnel [^`]+)`")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a study is read by somebody who did not make it."""

    name: str
    """Of the experiment."""
    help: str
    """The question that it answers."""
    passed: str
    """What to do next where it passed, or had no verdict to give."""
    failed: str = ""
    """What to do next where it failed."""
    unsure: str = ""
    """What to do next where it measured too little for a verdict; else as where it passed."""

    without_law: str = ""
    """What to do next where it measured too little for a law, if it is one that looks for a law."""

    def next(self, result: StudyResult[Any], lab_option: str = "") -> str:
        """What to do, by the verdict; commands have `lab_option` behind them, to find the lab."""
        return _COMMAND.sub(lambda typed: f"`{typed[1]}{lab_option}`", self._said(result))

    def _said(self, result: StudyResult[Any]) -> str:
        if self.without_law and result.numbers.law.refused:
            return self.without_law
        said = {"fail": self.failed, None: self.unsure}.get(result.verdict, "")
        return said or self.passed


READINGS: Table[Reading] = Table(
    "reading of a study",
    (
        Reading(
            name="check",
            help="Does everything that the model computes and learns keep its size as the model "
            "grows?",
            passed="The rules hold, so what is measured on small models may be carried to larger "
            "ones. Next: `windtunnel search`.",
            failed="Mend the rule that is named before you spend on larger models: settings that "
            "were found small do not carry over. Then run `windtunnel check` again.",
        ),
        Reading(
            name="search",
            help="Which learning rate and which initialisation are best, jointly?",
            passed="Later studies take these settings by themselves. Next: `windtunnel transfer`.",
            failed="The paper's point is kept. More trials may find a better one: `windtunnel "
            "search --trials` with a larger number goes on from here.",
        ),
        Reading(
            name="transfer",
            help="Does the best learning rate stay where it is as the model and its data grow?",
            passed="The rate's law goes into the scaling study and the plan. Next: `windtunnel "
            "batch`.",
            unsure="Too few sizes to say whether the rate stays. The law of the rate goes into the "
            "scaling study and the plan all the same. Next: `windtunnel batch`.",
            failed="Do not carry one rate to all sizes and lengths by hand: the best one moves. "
            "The law of the rate says how, and a plan follows it.",
        ),
        Reading(
            name="batch",
            help="Which batch reaches a loss with the fewest tokens, and how does it grow?",
            passed="The scaling study and the plan take the batch from this law. Next: "
            "`windtunnel scaling`.",
            unsure="Too little for a law to rely on: the plan takes the batch that was measured at "
            "a laptop's scale, and says so. More batches or longer runs would tell one.",
            failed="The law does not hold on what it had not seen: measure more batches or longer "
            "runs before you rely on it.",
        ),
        Reading(
            name="scaling",
            help="How does the loss fall with parameters and tokens?",
            passed="There is a law to plan with. Next: `windtunnel plan --flops BUDGET`.",
            unsure="Too small a study to judge its law, which a plan may use all the same: it says "
            "how far it reaches beyond these runs. Next: `windtunnel plan --flops "
            "BUDGET`.",
            failed="The law missed the run that it had not seen. Larger or longer runs in the "
            "study bring it nearer to what you want to predict.",
            without_law="A plan needs a law, and these runs are too few or too much alike to tell "
            "one. `windtunnel scaling` with further sizes or lengths goes on from them.",
        ),
        Reading(
            name="dynamics",
            help="What does the decay of the learning rate do, step by step?",
            passed="Nothing needs to be done: it shows why a branch ends so much lower than its "
            "stem.",
        ),
        Reading(
            name="ablate",
            help="Which data is worth putting into the decay?",
            passed="Take the mixture of the best arm for the decay: `windtunnel branch RUN --at "
            "TOKENS --mixture SOURCE=WEIGHT,...`.",
        ),
        Reading(
            name="ablate-longer",
            help="Which base of RoPE for which context?",
            passed="Take a base that cannot be told from the best one: `windtunnel longer RUN --to "
            "LENGTH --base BASE`. Heads of another size want another base; the rules say how.",
        ),
    ),
)
