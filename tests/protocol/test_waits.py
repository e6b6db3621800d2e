# SPDX-License-Identifier: Apache-2.0
"""Every wait of every kernel has a fault that ends in it."""

from __future__ import annotations

from test_ht_faults import STRAYS
from test_ht_waits import FAULTS as HT_FAULTS
from test_ll_waits import CLEANING_FAULTS
from test_ll_waits import FAULTS as LL_FAULTS
from wait_sites import name_of, sentences, sites

FAULTS = (*LL_FAULTS, *CLEANING_FAULTS, *HT_FAULTS)
OF_STRAYS = {(stray.template, name_of(*stray.says)) for stray in STRAYS if stray.template}
TESTED = {fault.site for fault in FAULTS} | OF_STRAYS


def test_all_waits_have_a_fault() -> None:
    untested, gone = sites() - TESTED, TESTED - sites()
    assert not untested, f"no fault ends in these waits: {sorted(untested)}"
    assert not gone, f"faults of waits that are not there: {sorted(gone)}"


def test_all_names_of_waits_are_used() -> None:
    assert {wait for _, wait in sites()} == set(sentences())
