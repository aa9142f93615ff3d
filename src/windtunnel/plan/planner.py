"""A planner that fits the laws once, and then answers any request at once: what the live page
moves its controls against. It writes nothing, and seals nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.laws.choice import Predictor
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.plan import fitted, folder_of, work_out
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.results.plan import PlanResult
from windtunnel.results.scaling import SCALING

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus


@dataclass(frozen=True, kw_only=True)
class Planner:
    """The laws of a lab, and what else its plans rest on."""

    lab: Path
    evidence: Evidence
    predictor: Predictor
    corpus: "Corpus | None"

    @classmethod
    def of(cls, lab: Path) -> "Planner":
        """By the lab's scaling study, for its corpus. Raises InputError where there is no such
        study, or where it tells no law.
        """
        evidence = from_lab(lab, SCALING.name)
        folder = lab / "corpora" / (evidence.corpus or "")
        corpus = None
        if (folder / "manifest.json").exists():
            from windtunnel.data.shards import Corpus

            corpus = Corpus.open(folder)
        return cls(lab=lab, evidence=evidence, predictor=fitted(evidence), corpus=corpus)

    def answer(self, request: Request) -> PlanResult:
        """What `windtunnel plan` would say, but for the id of a forecast: nothing is sealed.
        Raises InputError for a request that nothing can satisfy.
        """
        request.check()
        folder = folder_of(self.lab, request)
        return work_out(self.evidence, self.predictor, request, self.corpus, folder)[1]
