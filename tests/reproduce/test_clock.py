"""FuseMax's +binding against a clock."""

import json

import pytest

from penstock import cli
from penstock.reproduce import clock
from penstock.reproduce.fusemax import MODELS

BERT = MODELS[0]


@pytest.fixture(scope="module")
def short():
    """1K keys on BERT, with every effect."""
    (case,) = clock.clocked([BERT], ["1K"])
    return case


def test_what_is_published_is_a_bound(short):
    # the artifact: 138 cycles for each tile, 64 * 12 * 4 * 4 of them, and 64 / 4 for the division
    assert short.counted == 12288 * (2 * 64 + 10 + 64 / 4)
    assert (short.util_1d, round(short.util_2d, 3)) == (1.0, 0.89)
    assert all(short.counted <= cycles for cycles in short.cycles.values())
    bound, model = short.floor
    assert bound <= model <= short.simulated.cycles


def test_each_effect_costs_something_and_none_gives(short):
    ordered, dram, whole = (short.cycles[name] for name in ("ordered", "DRAM", "all"))
    assert short.counted < ordered < dram < whole
    for name in {each.name for each in clock.EFFECTS} - set(clock.REAL):
        if name == "blocks in two buffers":  # there is one block for each head
            assert short.cycles[name] == whole
        else:
            assert short.cycles[name] > whole, name
    assert short.cycles["buffer of 16 banks"] < short.cycles["buffer of 4 banks"]
    assert short.cycles["buffer of 4 banks"] < short.cycles["buffer with 1 port"]


def test_utilisation_is_what_is_left_after_the_stalls(short):
    busy = short.busy()
    for unit in short.simulated.units:
        if unit.unit in busy:
            lost = sum(unit.stalls.values()) + unit.idle_cycles
            assert busy[unit.unit] == pytest.approx(1 - lost / short.simulated.cycles)
    assert busy["pe1d"] < 0.3  # three of four cycles wait for wavefronts


@pytest.mark.slow
def test_more_tiles_in_flight_repair_it():
    one, five = clock.repaired(BERT, "4K", (1, 5))
    assert one.util_1d < 0.25
    assert five.util_1d > 0.95
    assert one.entries < five.entries
    assert five.area_um2 >= one.area_um2


def test_the_command(capsys):
    assert cli.main(["reproduce", "fusemax", "--simulate", "2K"]) == 1
    assert "unknown length '2K'" in capsys.readouterr().err


def test_the_section_has_a_row_for_each_case(short):
    from penstock.cli.clock import made

    section = made([short], [])
    assert [len(table.rows) for table in section.tables] == [1, 1, 2, 1, 0]
    assert json.dumps(section.data)
