"""A lab with a scaling study, what a plan takes from it, and the laws fitted to it: made once."""

from pathlib import Path

import pytest
from plan_labs import with_study

from windtunnel.laws.choice import Predictor, choose
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.studies import from_lab


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with a scaling study and nothing else. Only to be looked at."""
    return with_study(tmp_path_factory.mktemp("studied"))


@pytest.fixture(scope="session")
def evidence(studied: Path) -> Evidence:
    return from_lab(studied, "scaling")


@pytest.fixture(scope="session")
def predictor(evidence: Evidence) -> Predictor:
    return choose(evidence.points, evidence.seed_sd)
