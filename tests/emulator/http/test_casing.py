"""The spelling of ARM paths."""

from __future__ import annotations

import pytest

from amlocal.emulator.http.casing import canonical

BASE = "/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/W"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            BASE.lower().replace("/s/", "/S/").replace("/g/", "/G/").replace("/w", "/w"),
            BASE.replace("/W", "/w"),
        ),
        (
            f"{BASE}/onlineendpoints/Data/deployments/Jobs/GETLOGS",
            f"{BASE}/onlineEndpoints/Data/deployments/Jobs/getLogs",
        ),
        (f"{BASE}/data/Models/versions/1", f"{BASE}/data/Models/versions/1"),
        (
            f"/history/v1.0{BASE.replace('resourceGroups', 'resourcegroups')}/runs/X/details",
            f"/history/v1.0{BASE}/runs/X/details",
        ),
        ("/metadata/Endpoints", "/metadata/Endpoints"),
    ],
)
def test_fixed_words_get_one_spelling_and_names_stay(given: str, wanted: str) -> None:
    assert canonical(given) == wanted
