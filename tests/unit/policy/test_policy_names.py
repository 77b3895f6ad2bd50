"""What a glob stands for, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.gates.policy.names import covers, glob_problem, loose, names_test, strict

# pattern, separators, what it stands for, what it does not
GLOBS = [
    ("query", "/", ["query"], ["Query", "queryx", "query\n", ""]),
    ("read_*", "/", ["read_", "read_it"], ["read", "read_a/b", "xread_it", "read_it\n"]),
    ("*_file", "/", ["read_file", "_file"], ["a/read_file", "read_files"]),
    ("*", "/", ["a", "a/b"], []),
    ("**", "/", ["a", "a/b"], []),
    ("a/*", "/", ["a/b", "a/"], ["a", "a/b/c"]),
    ("a/**", "/", ["a/b", "a/b/c"], ["a"]),
    ("a/*/c", "/", ["a/b/c"], ["a/b/b/c", "a/c"]),
    ("**/c", "/", ["a/b/c", "/c"], ["c", "a/cc"]),
    ("a?c", "/", ["abc"], ["ac", "a/c", "abbc"]),
    ("fan[3]", "/.", ["fan[3]"], ["fan3", "fan[4]"]),
    ("fan[*]", "/.", ["fan[3]", "fan[x]"], ["fan[3].test", "fan"]),
    ("fix*", "/.", ["fix", "fix[2]"], ["fix[2].test"]),
    ("fix**", "/.", ["fix[2].test"], ["afix"]),
    ("user:*", "/:", ["user:ada"], ["user:a:b", "token:ada"]),
    ("*:ada", "/:", ["user:ada"], ["a:user:ada"]),
    ("a*", "/:", ["ada"], ["a:b"]),
    (r"a\*", "/", ["a*"], ["ab"]),
    (r"a\?b", "/", ["a?b"], ["axb"]),
    (r"a\\b", "/", ["a\\b"], ["ab"]),
    ("a+(b|c)", "/", ["a+(b|c)"], ["aab"]),
    ("a.c", "/", ["a.c"], ["abc"]),
    ("*a*b*", "/", ["ab", "xaxbx"], ["ba", "a/b"]),
]


@pytest.mark.parametrize(("pattern", "separators", "hits", "misses"), GLOBS)
def test_what_a_glob_stands_for(pattern: str, separators: str, hits: list[str], misses: list[str]) -> None:
    matches = names_test((pattern,), separators, folded=False)
    assert [one for one in hits if not matches(one)] == []
    assert [one for one in misses if matches(one)] == []


@pytest.mark.parametrize("name", [None, 3, ["query"], True])
def test_what_is_no_text_matches_nothing(name: object) -> None:
    assert not names_test(("*", "**", "query"), "/", folded=False)(name)
    assert not names_test(("*", "**", "query"), "/", folded=True)(name)


@pytest.mark.parametrize(
    "name",
    [
        "DELETE",
        "\uff44\uff45\uff4c\uff45\uff54\uff45",
        "del\u200bete",
        "delete\n",
        "\u202edelete",
        "Delete\x00",
        "\uff44\uff25\uff4cete",
        "dele\u00adte",
    ],
)
def test_no_spelling_escapes_what_withholds_nor_gets_what_grants(name: str) -> None:
    assert names_test(("delete",), "/", folded=True)(name)
    assert names_test(("del*",), "/", folded=True)(name)
    assert not names_test(("delete",), "/", folded=False)(name)
    if name != "DELETE":
        assert not names_test(("*", "**", "**e**"), "/", folded=False)(name)


def test_patterns_that_withhold_are_folded_too() -> None:
    assert names_test(("Straße",), "/", folded=True)("STRASSE")
    assert names_test(("GitHub*",), "/", folded=True)("github-x")


@pytest.mark.parametrize("pattern", ["", "a" * 600, "a\n", "\uff41", "a\\", "a***b", "\u202ea"])
def test_what_is_no_glob(pattern: str) -> None:
    assert glob_problem(pattern)


def test_globs_take_time_linear_in_the_name() -> None:
    matches = names_test(("*a" * 200 + "b",), "/", folded=False)
    assert not matches("a" * 100_000)


@given(st.text(max_size=20))
def test_a_name_stands_for_itself_if_it_is_what_it_looks_like(name: str) -> None:
    escaped = "".join(f"\\{one}" if one in "*?\\" else one for one in name)
    if glob_problem(escaped):
        return
    assert names_test((escaped,), "/", folded=False)(name) is (strict(name) is not None)
    assert names_test((escaped,), "/", folded=True)(name)


@given(st.text(max_size=30))
def test_folding_is_done_once_and_for_all(name: str) -> None:
    assert loose(loose(name)) == loose(name)


@given(st.text("ab/:*?", max_size=8), st.text("ab/:*?", max_size=8), st.text("ab/:", max_size=8))
def test_a_glob_that_covers_another_matches_all_that_it_matches(wide: str, narrow: str, name: str) -> None:
    if glob_problem(wide) or glob_problem(narrow) or not covers(wide, narrow):
        return
    if names_test((narrow,), "/", folded=False)(name):
        assert names_test((wide,), "/", folded=False)(name)
