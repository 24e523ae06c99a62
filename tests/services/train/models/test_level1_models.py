"""Every registered level-1 model passes the one suite."""

from __future__ import annotations

import pytest

from services.train.models import MODELS
from services.train.models.base import Fitter
from tests.contracts.level1_contract import Level1Contract


@pytest.mark.parametrize("fitter", list(MODELS.values()), ids=list(MODELS), indirect=True, scope="class")
class TestEveryModel(Level1Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def fitter(cls, request: pytest.FixtureRequest) -> Fitter:
        return request.param
