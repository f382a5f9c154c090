"""What README shows is what is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bluegreen.cli import main
from bluegreen.settings import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_settings_in_readme_are_those_of_the_demo() -> None:
    shown = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert shown
    assert parse(tomllib.loads(shown[1])) == parse(tomllib.loads((ROOT / "bluegreen.toml").read_text()))


def test_readme_names_every_command() -> None:
    assert set(re.findall(r"^\| `bluegreen (\w+)", README, re.MULTILINE)) == set(main.commands)


def test_every_page_that_readme_links_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_what_docs_show_of_gitlab_rb_is_what_the_command_beside_it_prints() -> None:
    page = (ROOT / "docs/gitlab.md").read_text()
    shown = re.search(r"```sh\nbluegreen (gitlab render .*)\n```\n\n```ruby\n(.*?)```", page, re.DOTALL)
    assert shown
    assert CliRunner().invoke(click.Group(commands=main.commands), shlex.split(shown[1])).output == shown[2]


@pytest.mark.parametrize("page", ["README.md", "docs/hooks.md", "docs/databases.md"])
def test_the_hooks_that_are_shown_are_settings(page: str) -> None:
    shown = re.findall(r"^ *```toml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    shown = [text for text in shown if "hooks." in text or "rollback_floor" in text]
    assert shown
    for text in shown:
        assert parse(tomllib.loads(text) | {"service": "shop", "app": {"port": 1}})
