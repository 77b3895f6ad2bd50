"""Makes the git repository that the epic works on: a small library with a test, on the branch main."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent / "repository"
GIT = ("git", "-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
FILES = {
    "titles.py": '''"""Titles of pages."""


def clean(title: str) -> str:
    """The title without needless spaces."""
    return " ".join(title.split())
''',
    "test_titles.py": """import unittest

import titles


class Titles(unittest.TestCase):
    def test_spaces_go(self) -> None:
        self.assertEqual(titles.clean("  a   page "), "a page")
""",
}


def main() -> None:
    REPOSITORY.mkdir()
    for name, text in FILES.items():
        (REPOSITORY / name).write_text(text)
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["commit", "--quiet", "-m", "Titles"],
    ):
        subprocess.run([*GIT, *command], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main()
