"""Single series off real and odd pages."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp.errors import ConfigError
from epp.pool.exposition import LINE_BYTES_MAX, SERIES_MAX, Family, Highest, Spec, parse_spec, values, with_labels

VLLM_PAGE = (Path(__file__).parents[2] / "data" / "vllm_metrics.txt").read_bytes()


def value(series):
    """Return what a server of one part says, if anything."""
    return next(iter(values(series, ())), None)


def test_every_gauge_and_counter_of_a_real_page_reads_as_a_full_parse_does():
    families = [family for family in text_string_to_metric_families(VLLM_PAGE.decode()) if family.type in ("gauge", "counter")]
    samples = [sample for family in families for sample in family.samples]
    names = {sample.name for sample in samples}
    assert len(names) > 50
    for name in names:
        wanted = [(sample.labels, sample.value) for sample in samples if sample.name == name]
        assert [(one.labels, one.value) for one in Family(name).read(VLLM_PAGE)] == wanted, name


def test_a_name_that_another_begins_with():
    page = b"up_total 3\nup 1\nupper 2\n"
    assert value(Family("up").read(page)) == 1


def test_names_in_comments_and_label_values_are_not_series():
    page = b'# HELP up up 7\n# TYPE up gauge\nother{text="\\nup 8"} 1\nup 9\n'
    assert value(Family("up").read(page)) == 9


def test_the_same_lines_are_not_parsed_again():
    family = Family("up")
    first = family.read(b"up 1\n")
    assert family.read(b"# HELP moved\nup 1\nother 5\n") is first
    assert value(family.read(b"# HELP moved\nup 2\nother 5\n")) == 2


def test_a_line_that_starts_where_the_first_one_did_does_not_hide_those_before_it():
    family = Family("up")
    assert [one.value for one in family.read(b"# a comment\nup 1\n")] == [1]
    page = b'up{x="1"} 3\nup 44\nup 5\n'
    assert page.startswith(b"up 44", 12)
    for _ in range(2):
        assert [one.value for one in family.read(page)] == [3, 44, 5]


def test_a_series_that_goes_away():
    family = Family("up")
    assert value(family.read(b"x 1\nup 1\n")) == 1
    assert value(family.read(b"x 1\n")) is None
    assert value(family.read(b"")) is None


def test_a_page_cut_in_the_middle_of_a_line():
    assert value(Family("up").read(b'up{a="b')) is None
    assert value(Family("up").read(b"up")) is None


def test_of_several_series_the_newest_by_timestamp():
    assert value(Family("up").read(b'up{e="0"} 1 100\nup{e="1"} 2 300\nup{e="2"} 3 200\nup{e="3"} 4\n')) == 2


def test_of_several_series_without_timestamps_the_first():
    assert value(Family("up").read(b'up{e="0"} 1\nup{e="1"} 2\n')) == 1


def test_each_part_of_a_server_counts_once():
    page = b'up{e="0",tp="0"} 1\nup{tp="1",e="0"} 1\nup{e="1",tp="0"} 2\nup{e="2"} NaN\nup{e="3"} +Inf\nup{e="1"} 5 7\nup 9\n'
    assert values(Family("up").read(page), ("e",)) == [1, 5, 9]
    assert values(Family("up").read(b'up{e="7"} NaN\n'), ("e",)) == []


def test_the_highest_of_however_many_wherever_it_stands():
    highest = Highest(Spec("up"))
    lines = [f'up{{e="{number} }} 7e9"}} {number}' for number in range(3 * SERIES_MAX)]
    rest = ["up NaN", "up +Inf", "up{", "up", "other 9e9"]
    for at, line, wanted in (
        (len(lines), 'up{e="last"} 4e3', 4e3),
        (5, 'up{e="}"} 5e3 17', 5e3),
        (SERIES_MAX + 1, "up 6e3\r", 6e3),
    ):
        lines.insert(at, line)
        assert [one.value for one in highest.read("\n".join([*lines, *rest]).encode())] == [wanted]


def test_the_highest_of_those_with_the_wanted_labels():
    page = b'up{k="a"} 1\nup{k="b"} 3\nup{k="a"} 2\n'
    assert value(Highest(Spec("up", (("k", "a"),))).read(page)) == 2
    assert value(Highest(Spec("up", (("k", "c"),))).read(page)) is None


def test_only_series_with_the_wanted_labels():
    series = Family("up").read(b'up{e="0",k="a"} 1\nup{k="b",e="1"} 2\n')
    assert value(with_labels(series, (("k", "b"),))) == 2
    assert value(with_labels(series, (("k", "c"),))) is None


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "Inf"])
def test_values_that_are_no_numbers(text):
    assert value(Family("up").read(f"up {text}\n".encode())) is None


@pytest.mark.parametrize(
    "line", ["up one", "up", "up{ 1", 'up{a="b} 1', "up 1 2 3", "up{} ", 'up{a="' + "b" * LINE_BYTES_MAX + '"} 1']
)
def test_lines_that_are_no_samples_are_passed_over(line):
    assert value(Family("up").read(f"{line}\nup 5\n".encode())) == 5


def test_windows_line_ends():
    assert value(Family("up").read(b"a 1\r\nup 5\r\n")) == 5


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a:b", Spec("a:b")),
        ("a{}", Spec("a")),
        ("a{x=y}", Spec("a", (("x", "y"),))),
        (' a { x = "y, z" , w=v } ', Spec("a", (("x", "y, z"), ("w", "v")))),
        (r'a{x="\"\\"}', Spec("a", (("x", '"\\'),))),
    ],
)
def test_specs(text, spec):
    assert parse_spec(text) == spec


@pytest.mark.parametrize("text", ["", "1a", "a{", "a{x}", "a{x=}", "a b", "a{x=y}z", "a{=y}"])
def test_specs_that_mean_nothing(text):
    with pytest.raises(ConfigError, match=r"^where: ") as caught:
        parse_spec(text, "where")
    assert caught.value.path == "where"
